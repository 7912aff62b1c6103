"""``distill3d trace`` as a user meets it."""

import forked
import numpy as np
import pytest
from shapes import tube

from distill3d.cli import app
from distill3d.volumes.swc import read_swc
from distill3d.volumes.volume import Volume, write_volume


@pytest.fixture
def stack(tmp_path):
    mask = tube([[10, 15, 5], [10, 15, 75]], (21, 31, 81))
    mask[:, :, 40:45] = False
    write_volume(tmp_path / "prob.tif", Volume((mask * 255).astype(np.uint8), (2.0, 1.0, 1.0)))
    return tmp_path / "prob.tif"


def command(*arguments):
    return forked.run("trace", *arguments)


@pytest.mark.parametrize("words", [["gap_um=4"], ["--gap_um=4"], ["--set", "gap_um=4"]])
def test_settings_follow_as_words_or_with_set(stack, capsys, words):
    out = stack.with_name("tree.swc")
    app(["trace", str(stack), "--out", str(out), *words], standalone_mode=False)
    assert "trees 2," in capsys.readouterr().out
    assert len(read_swc(out).roots) == 2
    app(["trace", str(stack), "--out", str(out)], standalone_mode=False)
    assert "trees 1," in capsys.readouterr().out
    assert len(read_swc(out).roots) == 1


def test_the_spacing_of_the_command_line_wins(stack, capsys):
    out = stack.with_name("tree.swc")
    app(["trace", str(stack), "--out", str(out), "--spacing", "2,1,3"], standalone_mode=False)
    assert np.ptp(read_swc(out).points_zyx_um[:, 2]) > 200
    assert "tree.swc" in capsys.readouterr().out


def test_nothing_found_is_said_and_is_no_failure(tmp_path):
    write_volume(tmp_path / "prob.tif", Volume(np.full((5, 6, 7), 3, np.uint8), (1.0, 1.0, 1.0)))
    done = command(tmp_path / "prob.tif", "--out", tmp_path / "tree.swc")
    assert done.returncode == 0
    assert done.stderr.count("\n") == 1
    assert "no neuron found; values from 3 to 3" in done.stderr
    assert "trees 0," in done.stdout
    assert (tmp_path / "tree.swc").read_text().startswith("#")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["gap=4"], "did you mean 'gap_um'?"),
        (["method=otso"], "'otso' is not accepted"),
        (["--spacing", "1,2"], "1,2"),
    ],
)
def test_what_cannot_be_used_exits_2(stack, words, message):
    done = command(stack, "--out", stack.with_name("tree.swc"), *words)
    assert done.returncode == 2
    assert message in done.stderr
    assert "Traceback" not in done.stderr


def test_a_missing_stack_is_one_line_and_exits_2(tmp_path):
    done = command(tmp_path / "none.tif", "--out", tmp_path / "tree.swc")
    assert done.returncode == 2
    assert done.stderr.splitlines() == [f"distill3d: {tmp_path / 'none.tif'}: no such file; an image stack is expected"]
