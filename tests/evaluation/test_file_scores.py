"""`evaluate --pred --gold`: two masks, two trees, a mask against a tree, and what cannot be compared."""

import io
import json

import forked
import nibabel
import numpy as np
import pytest
from rich.console import Console
from typer import BadParameter

from distill3d.cli import app
from distill3d.errors import InputError
from distill3d.evaluation.file_pairs import pair_files, score_places
from distill3d.evaluation.file_scores import score_files
from distill3d.evaluation.tables import file_table, file_tables
from distill3d.volumes.raster import rasterize
from distill3d.volumes.swc import MICROMETERS, read_swc, stated_spacing, write_swc
from distill3d.volumes.tree import Tree
from distill3d.volumes.volume import Volume, read_volume, write_volume

MASK_KEYS = {"dice", "precision", "recall", "f1", "hd95", "cldice", "betti0_error", "betti1_error"}
TREE_KEYS = {"esa", "dsa", "pds", "precision", "recall", "f1", "length_pred", "length_gold"}


def line(y=10.0, length=40.0):
    points = np.array([[8.0, y, 4.0], [8.0, y, 4.0 + length]])
    return Tree(points, np.full(2, 2.0), np.array([-1, 0]), np.array([1, 3]))


def mask_file(path, tree, spacing_um=(1.0, 1.0, 1.0)):
    mask = rasterize(tree, (16, 24, 60), spacing_um=(1.0, 1.0, 1.0), radius="fixed", radius_um=2.0)
    write_volume(path, Volume(mask.astype(np.uint8) * 255, spacing_um))
    return path


def test_masks_get_all_scores_and_a_perfect_one_is_perfect(tmp_path):
    gold = mask_file(tmp_path / "gold.tif", line())
    same = score_files(gold, gold)
    assert set(same) >= MASK_KEYS
    assert [same[key] for key in ("dice", "precision", "recall", "f1", "cldice")] == [1] * 5
    assert [same[key] for key in ("hd95", "betti0_error", "betti1_error")] == [0] * 3
    short = score_files(mask_file(tmp_path / "short.tif", line(length=20.0)), gold)
    assert short["precision"] == 1
    assert 0.4 < short["recall"] < 0.7
    assert short["f1"] == pytest.approx(2 * short["recall"] / (1 + short["recall"]))
    assert short["f1"] == pytest.approx(short["dice"])


def test_distances_of_masks_follow_the_spacing(tmp_path):
    plain = [mask_file(tmp_path / name, line(y)) for name, y in (("a.tif", 10.0), ("b.tif", 14.0))]
    in_voxels, in_um = score_files(*plain), score_files(*plain, spacing_um=(1.0, 0.5, 0.5))
    assert in_voxels["hd95"] == pytest.approx(4.0, abs=0.3)
    assert in_um["hd95"] == pytest.approx(in_voxels["hd95"] / 2)


def test_trees_are_scored_in_the_unit_of_their_files_or_in_um(tmp_path):
    paths = [tmp_path / "pred.swc", tmp_path / "gold.swc"]
    for path, y in zip(paths, (13.0, 10.0), strict=True):
        write_swc(path, line(y))
    scores = score_files(*paths)
    assert set(scores) >= TREE_KEYS
    assert (scores["esa"], scores["dsa"], scores["pds"], scores["unit"]) == (3.0, 3.0, 1.0, "vox")
    assert (scores["f1"], scores["length_gold"]) == (1.0, 40.0)
    scaled = score_files(*paths, spacing_um=(2.0, 2.0, 2.0))
    assert (scaled["esa"], scaled["unit"], scaled["f1"], scaled["length_gold"]) == (6.0, "um", 0.0, 80.0)


def test_a_traced_tree_is_in_um_already_and_gold_in_voxels_is_brought_to_it(tmp_path):
    spacing = (3.0, 1.0, 0.5)
    write_swc(tmp_path / "pred.swc", line(), spacing_um=MICROMETERS)
    in_voxels = Tree(
        line().points_zyx_um / spacing, *(getattr(line(), name) for name in ("radii_um", "parents", "types"))
    )
    write_swc(tmp_path / "gold.swc", in_voxels)
    assert stated_spacing(tmp_path / "pred.swc") == MICROMETERS
    assert stated_spacing(tmp_path / "gold.swc") is None
    scores = score_files(tmp_path / "pred.swc", tmp_path / "gold.swc", spacing_um=spacing)
    assert (scores["f1"], scores["unit"]) == (1, "um")
    assert scores["length_pred"] == pytest.approx(scores["length_gold"])
    assert score_files(tmp_path / "pred.swc", tmp_path / "pred.swc", spacing_um=spacing)[
        "length_gold"
    ] == pytest.approx(40)


def test_a_tree_without_a_unit_is_taken_to_be_in_um_as_the_other_is_and_that_is_said(tmp_path, caplog):
    write_swc(tmp_path / "pred.swc", line(), spacing_um=MICROMETERS)
    write_swc(tmp_path / "gold.swc", line())
    scores = score_files(tmp_path / "pred.swc", tmp_path / "gold.swc")
    assert (scores["unit"], scores["length_gold"]) == ("um", 40)
    said = f"{tmp_path / 'gold.swc'}: states no unit and is taken to be in um as the other is; else --spacing z,y,x"
    assert caplog.messages == [said]
    caplog.clear()
    score_files(tmp_path / "pred.swc", tmp_path / "gold.swc", spacing_um=(1.0, 1.0, 1.0))
    assert score_files(tmp_path / "gold.swc", tmp_path / "gold.swc")["unit"] == "vox"
    assert caplog.messages == []


def test_length_counts_as_found_up_to_the_tolerance_which_the_table_says(tmp_path):
    write_swc(tmp_path / "gold.swc", line())
    write_swc(tmp_path / "aside.swc", line(y=13.0))
    files = tmp_path / "aside.swc", tmp_path / "gold.swc"
    assert [score_files(*files, tolerance=far)["f1"] for far in (2.9, 3.1)] == [0, 1]
    assert file_table(score_files(*files, tolerance=3.1)).caption == "precision, recall, F1: of length, within 3.1 vox"


def test_a_tolerance_in_um_stands_beside_the_one_in_voxels_and_is_said(tmp_path):
    """Aside by 3 voxels of 0.5 um: 1.5 um."""
    spacing = (1.0, 0.5, 0.5)
    masks = [mask_file(tmp_path / name, line(y)) for name, y in (("a.tif", 13.0), ("b.tif", 10.0))]
    for tolerance_um in (1.4, 1.6):
        in_um = {"mask_um": tolerance_um, "surface_um": tolerance_um}
        scores = score_files(*masks, spacing_um=spacing, tolerances_um=in_um)
        assert [scores[key] == 1 for key in ("dice_tol_um", "nsd")] == [tolerance_um > 1.5] * 2
        assert scores["dice_tol"] == score_files(*masks)["dice_tol"] < 1
        assert f"in um: {tolerance_um} um" in file_table(scores).caption
    for path, tree in ((tmp_path / "a.swc", line(13.0)), (tmp_path / "b.swc", line(10.0))):
        write_swc(path, tree)
    trees = tmp_path / "a.swc", tmp_path / "b.swc"
    for pair in (trees, (tmp_path / "b.tif", tmp_path / "a.swc")):
        for tree_um, right in ((1.0, 0), (2.6, 1)):
            scores = score_files(*pair, spacing_um=spacing, tolerances_um={"tree_um": tree_um})
            assert (scores["f1_um"], scores["tree_um"]) == (right, tree_um)
    assert "F1 of length within the tolerance in um: 2.6 um" in file_table(scores).caption
    with pytest.raises(InputError, match=r"--tree-um 2: .* accepted: with --spacing"):
        score_files(*trees, tolerances_um={"tree_um": 2.0})


def test_a_file_states_the_voxels_it_counts_in(tmp_path):
    write_swc(tmp_path / "tree.swc", line(), spacing_um=(3.03, 1.0, 1e-5))
    assert stated_spacing(tmp_path / "tree.swc") == (3.03, 1.0, 1e-5)
    assert stated_spacing(tmp_path / "missing.swc") is None


def test_a_mask_is_traced_to_be_compared_with_a_tree(tmp_path):
    gold = tmp_path / "gold.swc"
    write_swc(gold, line())
    scores = score_files(mask_file(tmp_path / "mask.tif", line()), gold)
    assert set(scores) >= TREE_KEYS
    assert scores["f1"] == 1.0
    assert scores["esa"] < 1.0


def test_a_tree_in_micrometers_is_compared_with_a_mask_of_other_voxels(tmp_path, caplog):
    spacing, gold, mask = (2.0, 0.5, 0.5), tmp_path / "gold.swc", tmp_path / "mask.tif"
    tree = line()
    drawn = rasterize(tree, (12, 120, 120), spacing_um=spacing)
    write_volume(mask, Volume(drawn.astype(np.uint8), spacing))
    rows = [
        f"{i + 1} 3 {x} {y} {z} 1 {p + 1 if p >= 0 else -1}"
        for i, ((z, y, x), p) in enumerate(zip(tree.points_zyx_um, tree.parents, strict=True))
    ]
    gold.write_text("\n".join(rows))  # as of another program: no unit is stated
    assert score_files(mask, gold, tree_units="um")["f1"] == 1.0
    assert caplog.messages == []
    assert score_files(mask, gold)["f1"] < 0.5
    assert caplog.messages == [f"{gold}: states no unit and is taken to be in voxels; else --tree-units um"]
    gold.write_text("1 3 5000 5000 5000 1 -1\n2 3 5000 5000 5100 1 1")
    with pytest.raises(
        InputError, match=r"gold\.swc: no part of it lies in .*mask\.tif; accepted: a tree in its voxels"
    ):
        score_files(mask, gold)


def test_what_of_a_tree_lies_outside_of_the_mask_is_not_missed(tmp_path):
    points = np.array([[15.0, 50, -60], [15, 50, 190]])
    whole = Tree(points, np.full(2, 2.0), np.array([-1, 0]), np.array([3, 3]))
    write_swc(tmp_path / "gold.swc", whole)
    mask = rasterize(whole, (30, 100, 130), spacing_um=(1, 1, 1))
    write_volume(tmp_path / "mask.tif", Volume(mask.astype(np.uint8)))
    scores = score_files(tmp_path / "mask.tif", tmp_path / "gold.swc")
    assert (scores["f1"], scores["length_gold"]) == (1.0, pytest.approx(138.0))
    assert scores["length_error"] < 12


def test_a_probability_stack_is_thresholded_for_masks_and_trees_and_that_is_said(tmp_path, caplog):
    gold = mask_file(tmp_path / "gold.tif", line())
    write_swc(tmp_path / "gold.swc", line())
    mask = read_volume(gold).data > 0
    noise = np.random.default_rng(0).uniform(0, 0.45, mask.shape)
    write_volume(tmp_path / "prob.tif", Volume(np.round(255 * np.where(mask, 0.55 + noise, noise)).astype(np.uint8)))
    for against in (gold, tmp_path / "gold.swc"):
        caplog.clear()
        assert score_files(tmp_path / "prob.tif", against)["f1"] == 1
        assert caplog.messages == [
            f"{tmp_path / 'prob.tif'}: taken for a probability: from 0.5 of 255 on a voxel is neuron (--threshold)"
        ]
    beyond = np.where(mask, 1 + np.finfo(np.float32).eps, -1e-9 * noise).astype(np.float32)  # a mean of several
    write_volume(tmp_path / "mean.tif", Volume(beyond))
    assert score_files(tmp_path / "mean.tif", gold)["dice"] == 1
    assert score_files(tmp_path / "prob.tif", gold, threshold=0.8)["recall"] < 0.6
    assert score_files(tmp_path / "prob.tif", gold, threshold=0.0)["precision"] < 0.1


@pytest.mark.parametrize(
    "option",
    [
        ["--threshold", "0.3"],
        ["--tolerance", "1"],
        ["--spacing", "3,1,1"],
        ["--vaa3d-compat"],
        ["--workers", "2"],
        ["--tree-units", "um"],
    ],
)
def test_a_run_has_settings_of_its_own(tmp_path, option):
    with pytest.raises(BadParameter, match=rf"settings of its own; accepted: .*{option[0]}.* with --pred and --gold"):
        app(["evaluate", str(tmp_path), *option], standalone_mode=False)


def test_what_changes_no_score_of_any_pair_is_refused(tmp_path):
    masks = [str(mask_file(tmp_path / name, line())) for name in ("a.tif", "b.tif")]
    trees = [str(tmp_path / name) for name in ("a.swc", "b.swc")]
    for path in trees:
        write_swc(path, line())
    um = {"spacing_um": (1.0, 1.0, 1.0)}
    for pred, gold, how, option in (
        (masks[0], masks[1], {"tolerance": 1.0}, "--tolerance: changes no score of masks;"),
        (
            masks[0],
            masks[1],
            {"vaa3d_compat": True, "tolerances_um": {"tree_um": 1.0}},
            "--vaa3d-compat, --tree-um: ch",
        ),
        (trees[0], trees[1], {"threshold": 0.3}, "--threshold: changes no score of trees;"),
        (masks[0], trees[1], {"tolerances_um": {"surface_um": 1.0}}, "--surface-um: changes no score of a mask and"),
    ):
        with pytest.raises(InputError, match=option):
            score_places([pred], [gold], **how)
    assert [each["tolerance"] for each in score_places(trees[:1], trees[1:], tolerance=1.0, **um)] == [1.0]
    assert [each["f1"] for each in score_places(masks[:1], trees[1:], threshold=0.3, vaa3d_compat=False)] == [1.0]


def test_an_empty_mask_is_missed_and_not_perfect(tmp_path):
    gold = mask_file(tmp_path / "gold.tif", line())
    empty = tmp_path / "empty.tif"
    write_volume(empty, Volume(np.zeros((16, 24, 60), np.uint8), (1.0, 1.0, 1.0)))
    scores = score_files(empty, gold)
    assert (scores["dice"], scores["missed"]) == (0.0, 1.0)
    assert scores["hd95"] == pytest.approx(np.linalg.norm((16, 24, 60)))


@pytest.mark.parametrize("pred", ["tree", "mask", "itself"])
def test_gold_without_a_node_is_refused(tmp_path, pred):
    gold = tmp_path / "gold.swc"
    gold.touch()
    files = {"itself": gold, "mask": mask_file(tmp_path / "pred.tif", line()), "tree": tmp_path / "pred.swc"}
    files["tree"].write_text("1 0 1 1 1 1 -1\n2 0 9 1 1 1 1\n")
    with pytest.raises(InputError, match=r"gold\.swc: no node found"):
        score_files(files[pred], gold)
    assert score_files(gold, files["tree"])["f1"] == 0  # nobody traced anything, which is an answer


def test_masks_that_lie_turned_in_one_space_are_compared_where_they_lie(tmp_path):
    mask = np.zeros((5, 7, 6), np.uint8)
    mask[1, 2:6, 1] = 1
    affine = np.diag([0.25, 0.5, 1.5, 1.0])
    mirrored = np.diag([-0.25, 0.5, 1.5, 1.0])
    mirrored[0, 3] = 0.25 * 5
    swapped = affine[:, [2, 1, 0, 3]]
    for name, data, placed in (
        ("gold", mask.T, affine),
        ("mirrored", mask.T[::-1], mirrored),
        ("swapped", mask, swapped),
        ("elsewhere", mask.T[::-1], affine * (-1, 1, 1, 1)),
    ):
        image = nibabel.Nifti1Image(np.ascontiguousarray(data), placed)
        image.header.set_xyzt_units("micron")
        nibabel.save(image, tmp_path / f"{name}.nii")
    for name in ("mirrored", "swapped"):
        scores = score_files(tmp_path / f"{name}.nii", tmp_path / "gold.nii")
        assert (scores["dice"], scores["spacing_um"]) == (1.0, [1.5, 0.5, 0.25])
        assert score_files(tmp_path / f"{name}.nii", tmp_path / "gold.nii", spacing_um=(3.0, 1.0, 1.0))["dice"] == 1.0
    with pytest.raises(InputError, match=r"elsewhere\.nii: by its header it begins zyx 0 0 -5 voxels away"):
        score_files(tmp_path / "elsewhere.nii", tmp_path / "gold.nii")


def test_masks_of_different_shape_end_with_exit_code_2_and_one_line(tmp_path):
    gold = mask_file(tmp_path / "gold.tif", line())
    other = tmp_path / "other.tif"
    write_volume(other, Volume(np.ones((4, 5, 6), np.uint8), (1.0, 1.0, 1.0)))
    with pytest.raises(InputError, match=r"\(4, 5, 6\).*\(16, 24, 60\)"):
        score_files(other, gold)
    done = forked.run("evaluate", "--pred", other, "--gold", gold, "--json")
    assert done.returncode == 2
    assert len(done.stderr.strip().splitlines()) == 1
    assert done.stdout == ""


def test_the_command_prints_one_object(tmp_path):
    gold = mask_file(tmp_path / "gold.tif", line())
    done = forked.run("evaluate", "--pred", gold, "--gold", gold, "--json")
    assert done.returncode == 0, done.stderr
    assert set(json.loads(done.stdout)) >= MASK_KEYS


@pytest.mark.parametrize("number", [1, 2, 3, 5, 6])
def test_real_gold_against_itself_is_perfect(data_dir, number):
    gold = data_dir / "pairs" / f"OP_{number}.swc"
    scores = score_files(gold, gold)
    assert (scores["esa"], scores["dsa"], scores["pds"], scores["f1"]) == (pytest.approx(0, abs=1e-9), 0, 0, 1)
    assert scores["length_gold"] == pytest.approx(read_swc(gold).length_um)


def test_folders_are_paired_by_name_and_the_kind_of_the_gold_decides(tmp_path, capsys, caplog):
    pred, gold = tmp_path / "pred", tmp_path / "gold"
    pred.mkdir(), gold.mkdir()
    for name, y in (("a", 10.0), ("b", 12.0)):
        write_swc(pred / f"{name}.swc", line(y))
        mask_file(pred / f"{name}_prob.tif", line())
    write_swc(gold / "a.swc", line())
    write_swc(gold / "b.swc", line())
    mask_file(gold / "b.tif", line())  # the image of the tree
    write_swc(pred / "c.swc", line())
    app(["evaluate", "--pred", str(pred), "--gold", str(gold), "--json"], standalone_mode=False)
    results = json.loads(capsys.readouterr().out)["results"]
    assert [(each["kind"], each["pred"][-5:]) for each in results] == [("trees", "a.swc"), ("trees", "b.swc")]
    assert [each["esa"] for each in results] == [0, 2]
    assert "there is no gold of the name: c" in caplog.text
    (gold / "b.swc").unlink()
    pairs = pair_files([*pred.iterdir()], [*gold.iterdir()])
    assert [(p.name, g.name) for p, g in pairs] == [("a.swc", "a.swc"), ("b_prob.tif", "b.tif")]
    app(["evaluate", "--pred", str(pred / "[ab]*"), "--gold", str(gold)], standalone_mode=False)
    shown = capsys.readouterr().out
    assert shown.count("mean of 1") == 2
    assert shown.index("trees") < shown.index("masks")
    assert max(map(len, shown.splitlines())) <= 100
    with pytest.raises(InputError, match="no prediction has gold of its name among 2 files"):
        pair_files([pred / "c.swc"], [*gold.iterdir()])


def test_a_probability_is_the_prediction_and_not_the_raw_stack_beside_it(tmp_path):
    for names, gold in (
        (("a.tif", "a_prob.tif", "b_prob.tif"), ("a_mask.tif", "b_mask.tif")),
        (("a.tif", "a_prob.tif"), ("a.swc", "b.swc")),
    ):
        pairs = pair_files([tmp_path / name for name in names], [tmp_path / name for name in gold])
        assert (pairs[0][0].name, pairs[0][1].name) == ("a_prob.tif", gold[0])


def test_masks_have_no_length_and_their_table_shows_every_number_whole(tmp_path):
    far = Tree(np.array([[8.0, 1.0, 1.0], [8.0, 1.0, 3.0]]), np.full(2, 2.0), np.array([-1, 0]), np.array([1, 3]))
    for folder, tree in (("pred", far), ("gold", line(y=20.0))):
        (tmp_path / folder).mkdir()
        for name in ("a", "b"):
            mask_file(tmp_path / folder / f"{name}.tif", tree)
    scores = [*score_places([str(tmp_path / "pred")], [str(tmp_path / "gold")], spacing_um=(40.0, 40.0, 40.0))]
    shown = io.StringIO()
    for table in (*file_tables(scores), *file_tables(scores[:1])):
        Console(file=shown, width=100).print(table)
    assert not {"length", "F1"} & set(shown.getvalue().split())
    assert shown.getvalue().count(f" {scores[0]['hd95']:.1f} ") == 3  # of two pairs and of their mean
    assert scores[0]["hd95"] > 1000


def test_files_of_one_name_in_several_folders_are_refused_and_not_left_out(tmp_path):
    """The second neuron of two was left out, and its gold was that of the first."""
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        write_swc(tmp_path / folder / "cell.swc", line())
    both = [tmp_path / folder / "cell.swc" for folder in ("a", "b")]
    for preds, golds in ((both, both[:1]), (both[:1], both), (both, both)):
        with pytest.raises(InputError, match=r"a/cell\.swc and \S+b/cell\.swc have one name; accepted: one folder"):
            pair_files(preds, golds)
