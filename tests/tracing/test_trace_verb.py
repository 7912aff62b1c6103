"""``distill3d trace`` as a user meets it."""

import forked
import numpy as np
import pytest
from shapes import tube

from distill3d.cli import app
from distill3d.config.trace import TraceConfig
from distill3d.errors import InputError, SomeFailedError
from distill3d.tracing.trace import input_of, trace, trace_file
from distill3d.volumes.prob import write_prob
from distill3d.volumes.reading import Reading
from distill3d.volumes.swc import read_swc
from distill3d.volumes.volume import Volume, read_volume, write_volume


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


def test_several_stacks_become_trees_of_their_names_in_a_folder(stack, tmp_path, capsys):
    stack.rename(tmp_path / "cell_prob.tif")
    raw_stack(tmp_path / "other.tif", tube([[10, 15, 5], [10, 15, 75]], (21, 31, 81)))
    (tmp_path / "broken.tif").write_bytes(b"II")
    with pytest.raises(SomeFailedError, match=r"^1 of 3 failed: .*broken\.tif"):
        app(["trace", str(tmp_path / "*.tif"), "gap_um=4", "--out", str(tmp_path / "t")], standalone_mode=False)
    assert {path.name: len(read_swc(path).roots) for path in (tmp_path / "t").iterdir()} == {
        "cell.swc": 2,
        "other.swc": 1,
    }
    assert len(capsys.readouterr().out.splitlines()) == 2
    with pytest.raises(InputError, match=r"t\.swc: one tree for 2 stacks; accepted: --out FOLDER"):
        app(["trace", *map(str, tmp_path.glob("[co]*.tif")), "--out", "t.swc"], standalone_mode=False)


def test_a_pattern_with_an_equals_sign_is_no_setting(stack, tmp_path):
    stack.rename(tmp_path / "k=3.tif")
    for words in (str(tmp_path / "k=*.tif"), str(tmp_path / "k=3.tif")):
        app(["trace", words, "--out", str(tmp_path / "t"), "--overwrite"], standalone_mode=False)
        assert [path.name for path in (tmp_path / "t").iterdir()] == ["k=3.swc"]
    with pytest.raises(InputError, match=r"k=4\.tif: "):
        app(["trace", str(tmp_path / "k=4.tif"), "--out", str(tmp_path / "t")], standalone_mode=False)


def test_the_spacing_of_the_command_line_wins(stack, capsys):
    out = stack.with_name("tree.swc")
    app(["trace", str(stack), "--out", str(out), "--spacing", "2,1,3"], standalone_mode=False)
    assert np.ptp(read_swc(out).points_zyx_um[:, 2]) > 200
    assert "tree.swc" in capsys.readouterr().out


def raw_stack(path, mask):
    """A neurite that is brighter than its background everywhere, and half of it darker than 128."""
    brightness = np.linspace(80, 150, mask.shape[2])
    data = np.random.default_rng(0).integers(0, 20, mask.shape) + mask * brightness
    write_volume(path, Volume(data.clip(0, 255).astype(np.uint8), (2.0, 1.0, 1.0)))


def test_a_raw_stack_that_says_nothing_is_an_image_and_loses_no_half(tmp_path, caplog):
    mask = tube([[10, 15, 5], [10, 15, 75]], (21, 31, 81))
    raw_stack(tmp_path / "raw.tif", mask)
    tree = trace_file(tmp_path / "raw.tif", tmp_path / "tree.swc")
    assert "raw.tif: traced as input=image" in caplog.text
    assert tree.length_um == pytest.approx(70, abs=5)
    as_prob = trace_file(tmp_path / "raw.tif", tmp_path / "tree.swc", TraceConfig())
    assert np.ptp(as_prob.points_zyx_um[:, 2]) < 45


@pytest.mark.parametrize(
    ("data", "kind"),
    [
        (np.array([0, 255], np.uint8), "mask"),
        (np.array([0, 900], np.uint16), "mask"),
        (np.arange(200, dtype=np.uint8), "image"),
        (np.arange(4000, dtype=np.uint16), "image"),
        (np.linspace(0, 1, 50, dtype=np.float32), "image"),
        (np.array([3], np.uint8), "image"),
    ],
)
def test_what_a_stack_is_traced_as_if_nobody_says_it(data, kind, tmp_path, caplog):
    volume = Volume(np.resize(data, (20, 20, 10)))
    assert input_of(tmp_path / "a.tif", volume) == kind
    assert len(caplog.messages) == (len(data) > 2)
    write_prob(tmp_path / "a.tif", volume.data / volume.data.max(), (1.0, 1.0, 1.0))
    assert input_of(tmp_path / "a.tif", volume) == "prob"


def test_labels_are_refused_with_the_ways_out(tmp_path):
    volume = Volume(np.resize(np.arange(4, dtype=np.uint8), (4, 5, 6)))
    with pytest.raises(InputError, match=r"input=mask \(all but 0\), input=image or input=prob"):
        input_of(tmp_path / "a.tif", volume)


def test_only_a_tree_of_the_same_stack_is_replaced(stack, tmp_path):
    gold, tree, other = tmp_path / "gold.swc", tmp_path / "tree.swc", tmp_path / "other.tif"
    gold.write_text("1 0 8 8 4 1 -1\n")
    trace_file(stack, tree)
    for path, out in ((stack, gold), (stack, other), (other, tree)):
        write_volume(other, Volume(np.ones((4, 5, 6), np.uint8)))
        before = out.read_bytes()
        with pytest.raises(InputError, match=r"did not come from .* accepted: --overwrite|ends in \.swc"):
            trace_file(path, out)
        assert out.read_bytes() == before
    trace_file(stack, tree, TraceConfig(gap_um=4))
    trace_file(stack, gold, overwrite=True)
    assert len(read_swc(gold).roots) == 1
    assert gold.read_text().splitlines()[0].startswith("# distill3d; voxel size")


def test_a_channel_and_the_scaling_of_a_run_reach_the_trace(tmp_path):
    mask = tube([[10, 15, 5], [10, 15, 75]], (21, 31, 81))
    raw_stack(tmp_path / "raw.tif", mask)
    image = read_volume(tmp_path / "raw.tif").data
    np.save(tmp_path / "two.npy", np.stack([image[::-1], image]))
    options = {"spacing_um": (2.0, 1.0, 1.0), "reading": Reading(channel=1)}
    alone = trace_file(tmp_path / "raw.tif", tmp_path / "alone.swc")
    of_two = trace_file(tmp_path / "two.npy", tmp_path / "two.swc", **options)
    np.testing.assert_allclose(of_two.points_zyx_um, alone.points_zyx_um)
    fixed = TraceConfig(input="image", method="fixed", threshold=0.9)
    dim, bright = (trace(image, (2.0, 1.0, 1.0), fixed, percentiles=(0.0, high)) for high in (100.0, 99.0))
    assert np.ptp(dim.points_zyx_um[:, 2]) < 25
    assert np.ptp(bright.points_zyx_um[:, 2]) > 45


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
