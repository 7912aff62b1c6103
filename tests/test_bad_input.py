"""What cannot be used is one line, exit code 2, and leaves nothing behind."""

from dataclasses import replace

import numpy as np
import pytest
import tifffile

from distill3d.errors import UserError
from distill3d.experiment import load_experiment
from distill3d.training import fit

SWC = "1 0 8 8 4 1 -1\n2 0 24 24 8 1 1\n"


@pytest.fixture
def pairs(tmp_path):
    """Three good pairs; a test spoils one of them."""
    folder = tmp_path / "pairs"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for name in ("a", "b", "c"):
        tifffile.imwrite(folder / f"{name}.tif", rng.integers(1, 200, (16, 32, 32)).astype(np.uint8))
        (folder / f"{name}.swc").write_text(SWC)
    return folder


@pytest.fixture
def lines(tiny_file, pairs, tmp_path):
    """Run the experiment on the pairs and return what it refuses."""

    def refused(*overrides):
        data = f"data={{name: neurons, folder: {pairs}, spacing_um: [1, 1, 1], train: [a], val: [b], test: [c]}}"
        experiment = load_experiment(tiny_file, [data, *overrides])
        with pytest.raises(UserError) as caught:
            fit.fit(replace(experiment, cache=str(tmp_path / "cache")))
        assert not (tmp_path / "runs").exists()
        assert caught.value.exit_code == 2
        return caught.value.lines

    return refused


def stack(pairs, values):
    tifffile.imwrite(pairs / "a.tif", values)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda p: (p / "a.tif").write_bytes(b""), "a.tif"),
        (lambda p: (p / "a.tif").write_bytes((p / "a.tif").read_bytes()[:900]), "a.tif"),
        (lambda p: stack(p, np.zeros((16, 32, 32), np.uint8)), "every voxel is 0"),
        (lambda p: stack(p, np.full((16, 32, 32), np.nan, np.float32)), "a.tif"),
        (lambda p: (p / "a.swc").write_text(""), "a.swc"),
        (lambda p: (p / "a.swc").write_text("1 0 900 900 900 1 -1\n2 0 910 910 910 1 1\n"), "overlap"),
        (lambda p: (p / "a.swc").write_text("1 0 1 1 1 1 2\n2 0 2 2 2 1 1\n"), "cycle"),
        (lambda p: (p / "a.swc").unlink(), "a"),
    ],
    ids=["empty", "truncated", "zeros", "nan", "no nodes", "apart", "cycle", "no gold"],
)
def test_a_case_that_cannot_be_used_is_one_line(pairs, lines, spoil, message):
    spoil(pairs)
    printed = lines()
    assert len(printed) == 1
    assert message in printed[0]


def test_all_cases_that_cannot_be_used_are_told_at_once(pairs, lines):
    for name in ("a", "c"):
        (pairs / f"{name}.swc").write_text("")
    assert len(lines()) == 2


def test_a_missing_folder_is_one_line(pairs, lines):
    assert "nowhere" in lines(f"data.folder={pairs}/nowhere")[0]


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (("strategy.name=inflate",), "needs a teacher"),
        (("strategy.name=inflate", "teacher.name=timm2d"), "set student.name=convnet3d"),
        (("strategy.name=inflate", "teacher.name=timm2d", "student={name: convnet3d, encoder: resnet18}"), "resnet18"),
        (("teacher={name: timm2d, weights: file, path: nowhere.pth}",), "nowhere.pth"),
        (("student={name: convnet3d, encoder: no_such_net}",), "no_such_net"),
    ],
    ids=["no teacher", "no 2D twin", "another network", "no file", "no such network"],
)
def test_a_teacher_that_does_not_fit_is_one_line(lines, overrides, message):
    printed = lines(*overrides)
    assert len(printed) == 1
    assert message in printed[0]
