"""`survey` measures small folders on disk; `init` writes experiments that load, all or none."""

import numpy as np
import pytest
import tifffile
from made_cases import SHAPE, SPACING, tree_of, write_case, write_labels

from distill3d.cli import app
from distill3d.config.compare import differences
from distill3d.data.check import check_data
from distill3d.data.plan import plan
from distill3d.data.survey import survey
from distill3d.errors import InputError
from distill3d.experiment import load_experiment
from distill3d.volumes.swc import MICROMETERS, write_swc
from distill3d.volumes.volume import Volume, write_volume


@pytest.fixture
def folder(tmp_path):
    """Three sound cases."""
    stacks = tmp_path / "my axons"
    stacks.mkdir()
    for k in range(3):
        write_case(stacks, f"n{k}", tree=tree_of(shift=k), seed=k)
    return stacks


def init(*words):
    app(["init", *map(str, words)], standalone_mode=False)


def values(fingerprint):
    return {choice.key: choice.value for choice in plan(fingerprint).scratch}


def test_what_is_on_disk_is_measured(folder):
    seen = survey(folder)
    case = seen.cases[0]
    assert [each.name for each in seen.cases] == ["n0", "n1", "n2"]
    assert (case.suffix, case.shape_zyx, case.dtype, case.spacing_um) == (".tif", SHAPE, "uint8", SPACING)
    assert (seen.left_out, seen.unlabelled, len(seen.contrasts), seen.machine.memory > 2**28) == ((), (), 1, True)
    assert case.states_spacing
    assert case.mask_share is None
    assert case.tree is not None
    assert (case.tree.units, case.tree.inside, case.tree.flip, case.tree.radii) == ("voxel", 1, "fine", (1.5, 1.5, 1.5))
    own = case.tree.fits[0]
    assert (own.voxels, own.dice, case.tree.covered) == (None, 1, 1)
    assert next(fit for fit in case.tree.fits if fit.voxels == 1.5) == type(own)(voxels=1.5, dice=1, share=own.share)


def test_trees_in_um_and_flipped_ones_are_known_by_what_is_bright(folder):
    for k in range(3):
        tree = tree_of(shift=k)
        write_swc(folder / f"n{k}.swc", tree, spacing_um=MICROMETERS)
        text = (folder / f"n{k}.swc").read_text()
        (folder / f"n{k}.swc").write_text(text[text.index("\n") + 1 :])  # without the line that says the voxels
    chosen = values(survey(folder))
    assert (chosen["data.tree_units"], "data.flip_y" in chosen) == ("um", False)
    tifffile.imwrite(folder / "n1.tif", tifffile.imread(folder / "n1.tif")[:, ::-1])
    seen = survey(folder, spacing_um=SPACING)
    assert [case.tree and case.tree.flip for case in seen.cases] == ["fine", "flipped", "fine"]
    assert (values(seen)["data.flip_y"], values(seen)["data.spacing_um"]) == ("auto", list(SPACING))


def test_what_cannot_be_used_is_named_and_the_others_are(folder, caplog):
    (folder / "bad.tif").write_bytes((folder / "n0.tif").read_bytes()[:500])
    (folder / "bad.swc").write_bytes((folder / "n0.swc").read_bytes())
    write_volume(folder / "bare.tif", Volume(np.arange(64, dtype=np.uint8).reshape(4, 4, 4), SPACING))
    write_volume(folder / "dark.tif", Volume(np.full(SHAPE, 7, np.uint8), SPACING))
    (folder / "dark.swc").write_bytes((folder / "n0.swc").read_bytes())
    (folder / "copy.tif").write_bytes((folder / "n0.tif").read_bytes())
    (folder / "copy.swc").write_bytes((folder / "n0.swc").read_bytes())
    seen = survey(folder)
    made = plan(seen)
    assert seen.unlabelled == ("bare",)
    reasons = dict(made.left_out)
    assert list(reasons) == ["bad", "dark", "n0"]
    assert "bad.tif" in reasons["bad"]
    assert (reasons["dark"], reasons["n0"]) == ("every voxel is 7", "the same image as copy")
    assert values(seen)["data.exclude"] == ["bad", "dark", "n0"]
    assert not caplog.records


def test_the_channel_with_the_neuron_is_read(folder):
    for k in range(3):
        data = tifffile.imread(folder / f"n{k}.tif")
        noise = np.random.default_rng(9).integers(0, 20, data.shape).astype(np.uint8)
        stack = np.stack([np.zeros_like(data), noise, data], axis=1)
        tifffile.imwrite(folder / f"n{k}.tif", stack, imagej=True, metadata={"axes": "ZCYX"})
    seen = survey(folder, spacing_um=SPACING)
    assert len(seen.contrasts) == 3
    assert values(seen)["data.channel"] == 2
    assert [case.low < case.high for case in seen.cases] == [True] * 3


def test_masks_subfolders_and_the_layout_of_nnunet_are_seen(folder, tmp_path):
    write_labels(tmp_path / "my axons")
    case = {each.name: each for each in survey(folder).cases}["t"]
    assert case.tree is None
    assert case.mask_share is not None
    nested = tmp_path / "nested"
    for k in range(3):
        (nested / f"s{k}").mkdir(parents=True)
        write_case(nested / f"s{k}", "n", tree=tree_of(shift=k), seed=k)
        (nested / f"s{k}" / "n.swc").rename(nested / f"s{k}" / "n_stamp_2015.swc")
    seen = survey(nested)
    assert [each.name for each in seen.cases] == ["s0", "s1", "s2"]
    assert (values(seen)["data.nested"], values(seen)["data.tree"]) == (True, "*{stem}*.swc")
    raw = tmp_path / "Dataset001"
    for part in ("imagesTr", "labelsTr"):
        (raw / part).mkdir(parents=True)
    for k in range(3):
        data, mask = write_case(tmp_path, "made", tree=tree_of(shift=k), seed=k)
        for channel, image in ((0, 255 - data), (1, data)):
            write_volume(raw / "imagesTr" / f"n{k}_{channel:04d}.tif", Volume(image, SPACING))
        write_volume(raw / "labelsTr" / f"n{k}.tif", Volume(mask, SPACING))
    chosen = values(survey(raw))
    assert (chosen["data.layout"], chosen["data.volume"], chosen["data.folds"]) == ("nnunet", "{stem}_0001", 3)


@pytest.mark.parametrize("twin", ["", "_center", "_vit", "_tubular"])
def test_what_is_written_loads_and_twins_differ_in_what_is_transferred_alone(folder, tmp_path, twin, capsys):
    init(folder, "--out", tmp_path / "out")
    shown = capsys.readouterr().out
    assert f"out/my_axons{twin}.yaml" in shown.replace("\n", "")
    assert max(map(len, shown[: shown.index("written")].split("\n"))) <= 100
    experiment = load_experiment(tmp_path / "out" / f"my_axons{twin}.yaml")
    assert experiment.name == f"my_axons{twin}"
    base = load_experiment(tmp_path / "out" / f"my_axons{'_vit' * (twin == '_tubular')}.yaml")
    keys = {key.partition(".")[0] for key, *_ in differences(base, experiment)} - {"name", "question"}
    allowed = {"": set(), "_center": {"teacher", "strategy"}, "_vit": {"student", "optimizer"}}
    assert keys == allowed.get(twin, {"teacher", "strategy", "optimizer"})
    assert (experiment.trainer.steps, experiment.patches.batch_size) == (base.trainer.steps, base.patches.batch_size)
    assert check_data(experiment).problems == ()


def test_files_that_are_there_are_kept_unless_told_otherwise(folder, tmp_path):
    init(folder, "--out", tmp_path / "out", "--name", "x")
    kept = tmp_path / "out" / "x_vit.yaml"
    kept.write_text("mine: 1")
    (tmp_path / "out" / "x.yaml").unlink()
    with pytest.raises(InputError, match=r"x_vit.yaml.*: there already; accepted: --overwrite"):
        init(folder, "--out", tmp_path / "out", "--name", "x")
    assert (kept.read_text(), (tmp_path / "out" / "x.yaml").exists()) == ("mine: 1", False)
    init(folder, "--out", tmp_path / "out", "--name", "x", "--overwrite")
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        f"x{twin}.yaml" for twin in ("", "_center", "_vit", "_tubular")
    }
    assert "base: x.yaml" in kept.read_text()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--name", "a/b"], "'a/b' is no experiment's name; accepted: letters"),
        (["--name", "tubular"], "tubular is an experiment already"),
        (["--out", "{tmp}/my axons/n0.tif"], "cannot be written .*; accepted: another --out"),
    ],
    ids=["slash", "taken", "no folder"],
)
def test_a_name_and_a_place_that_cannot_be_used_are_one_line(folder, tmp_path, words, message):
    before = sorted(tmp_path.rglob("*"))
    words = [word.replace("{tmp}", str(tmp_path)) for word in words]
    with pytest.raises(InputError, match=message) as no:
        init(folder, *(["--out", tmp_path / "out"] if "--out" not in words else []), *words)
    assert (len(no.value.lines), no.value.exit_code) == (1, 2)
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize(
    ("left", "message"),
    [((), "none of 0 volumes has a gold file"), (("n0.tif", "n1.tif"), "none of 2 volumes has a gold file"),
     (("n0.tif", "n0.swc", "n1.tif"), "n0 is all that can be trained on"), (None, "no such folder; accepted: one ")],
    ids=["empty", "no gold", "one case", "missing"],
)  # fmt: skip
def test_a_folder_that_cannot_be_used_is_one_line(folder, tmp_path, left, message):
    for path in folder.iterdir():
        if left is None or path.name not in left:
            path.unlink()
    if left is None:
        folder.rmdir()
    with pytest.raises(InputError, match=message) as no:
        init(folder, "--out", tmp_path / "out")
    assert len(no.value.lines) == 1
    assert not (tmp_path / "out").exists()
