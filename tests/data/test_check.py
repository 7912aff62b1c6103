"""`check_data`: what it measures, every problem it must find, and a table that fits 100 columns."""

import io
from dataclasses import replace

import nibabel
import numpy as np
import pytest
from made_cases import SHAPE, SPACING, experiment_of, patches_of, tree_of, write_case, write_labels
from rich.console import Console

import distill3d.experiment  # noqa: F401 - registers the strategies
from distill3d.data.check import DataReport, check_data
from distill3d.data.datamodule import DistillDataModule
from distill3d.data.tables import check_table
from distill3d.errors import ConfigError
from distill3d.volumes.swc import write_swc
from distill3d.volumes.volume import Volume, write_volume

NAMES = ("n0", "n1", "n2", "n3")


@pytest.fixture
def folder(tmp_path):
    for k in range(4):
        write_case(tmp_path, f"n{k}", tree=tree_of(shift=k), seed=k)
    return tmp_path


def printed(report):
    out = io.StringIO()
    Console(file=out, width=100).print(check_table(report))
    return out.getvalue()


def test_sound_data_has_no_problem_and_its_facts_are_measured(folder):
    report = check_data(experiment_of(folder))
    assert report.problems == ()
    assert [(case.name, case.split) for case in report.cases] == [
        ("n0", "train"),
        ("n1", "train"),
        ("n2", "val"),
        ("n3", "test"),
    ]
    facts = report.cases[0].facts
    assert facts is not None
    data, mask = write_case(folder, "again", seed=0)
    assert (facts.shape_zyx, facts.dtype, facts.spacing_um) == (SHAPE, "uint8", SPACING)
    assert (facts.low, facts.high) == (data.min(), data.max())
    assert facts.mean == pytest.approx(data.mean())
    assert facts.gold_voxels == mask.sum()
    assert facts.gold_share == pytest.approx(mask.mean())
    assert facts.known_share == 1
    assert facts.tree is not None
    assert (facts.tree.n_nodes, facts.tree.n_roots, facts.tree.n_tips) == (20, 1, 1)
    assert facts.flip is not None
    assert facts.flip.verdict == "fine"
    assert facts.flip.mean_as_is > 150
    assert facts.flip.mean_flipped < 50


def problems_of(folder, **data):
    return check_data(experiment_of(folder, **data)).problems


def test_the_same_image_in_two_splits_is_found(folder):
    (folder / "n3.tif").write_bytes((folder / "n0.tif").read_bytes())
    assert problems_of(folder) == ("n0 (train) and n3 (test) are the same image",)


def test_the_same_gold_under_two_images_is_found(folder):
    write_case(folder, "n2", tree=tree_of(shift=1), seed=9)
    assert problems_of(folder) == ("n1 (train) and n2 (val) have the same gold",)


def test_a_duplicate_within_a_split_is_no_problem(folder):
    (folder / "n1.tif").write_bytes((folder / "n0.tif").read_bytes())
    assert problems_of(folder) == ()


def test_a_flipped_tree_is_found(folder):
    tree = tree_of(shift=1)
    mirrored = tree.points_zyx_um * (1, -1, 1) + (0, SHAPE[1] - 1, 0)
    write_swc(folder / "n1.swc", replace(tree, points_zyx_um=mirrored), spacing_um=SPACING)
    (problem,) = problems_of(folder)
    assert problem.startswith("n1: the tree's y axis runs against the image's")
    assert problems_of(folder, flip_y="auto") == ()


def test_an_empty_mask_is_found(folder):
    (folder / "n2.swc").unlink()
    write_volume(folder / "n2_mask.tif", Volume(np.zeros(SHAPE, np.uint8), SPACING))
    assert problems_of(folder) == ("n2: the mask is empty: no gold voxel",)


def as_nifti(folder, name, data, *, mirrored=False, sizes=(1.0, 1.0, 2.0), shift=0.0):
    """Replace a case's image or mask by a NIfTI file of SPACING; mirrored in x as it is stored, not as it lies."""
    data, affine = data[:, :, ::-1] if mirrored else data, np.diag([*sizes, 1.0])
    if mirrored:
        affine[0] = (-sizes[0], 0, 0, sizes[0] * (data.shape[2] - 1))
    affine[0, 3] += shift
    image = nibabel.Nifti1Image(np.ascontiguousarray(data.T, dtype=np.uint8), affine)
    image.header.set_xyzt_units("micron")
    nibabel.save(image, folder / f"{name}.nii")


def test_turned_masks_decimal_commas_and_shifts_are_mended_and_named_beside_a_size_of_another_unit(folder):
    cases = {name: write_case(folder, name, tree=tree_of(shift=k), seed=k) for k, name in enumerate(NAMES)}
    for name, sizes in (("n0", (1.0, 1.0, 2.0)), ("n1", (1.0, 1.0, 2000.0))):  # zyx in files: xyz
        (folder / f"{name}.tif").unlink()
        as_nifti(folder, name, cases[name][0], sizes=sizes)
    as_nifti(folder, "n0_mask", cases["n0"][1], mirrored=True)
    text = (folder / "n2.swc").read_text()
    (folder / "n2.swc").write_text(
        "\n".join(line if "#" in line else line.replace(".", ",") for line in text.split("\n"))
    )
    (folder / "n3.swc").write_text("# OFFSET 0 0 0,5\n" + (folder / "n3.swc").read_text())
    report = check_data(experiment_of(folder))
    assert [text for text in report.problems if not text.startswith("n1: ")] == []
    # at 2000 um a slice the tree lies in one, where what is left of it says nothing of the axis
    notes = [text for text in report.notes if not text.startswith(("training cases", "n1: the image does not tell"))]
    assert [text.partition(";")[0][:70] for text in notes] == [
        "n0: the mask is stored with other axes than the image: turned as both headers say"[:70],
        "n1: voxels of zyx 2000 1 1 um",
        "n2: the tree: decimal commas (line 3) are read as points",
        "n3: the tree: its header's SCALE [1. 1. 1.] and OFFSET [0.  0.  0.5] (x y z) are applied"[:70],
    ]
    assert [case.facts.gold_voxels for case in report.cases if case.name in ("n0", "n2")] == [
        cases[name][1].sum() for name in ("n0", "n2")
    ]


def test_masks_of_another_place_or_spacing_and_sizes_of_another_unit_are_found_at_once(tmp_path):
    cases = {name: write_case(tmp_path, name, tree=tree_of(shift=k), seed=k) for k, name in enumerate(NAMES)}
    for name, (data, mask) in cases.items():
        (tmp_path / f"{name}.tif").unlink()
        as_nifti(tmp_path, name, data, sizes=(1.0, 1.0, 2000.0) if name == "n3" else (1.0, 1.0, 2.0))
        wrong = {"n1": {"shift": 3.0}, "n2": {"sizes": (1.0, 1.0, 1.0)}, "n3": {"sizes": (1.0, 1.0, 2000.0)}}
        as_nifti(tmp_path, f"{name}_mask", mask, **wrong.get(name, {"mirrored": True}))
        (tmp_path / f"{name}.swc").unlink()
    report = check_data(experiment_of(tmp_path))
    assert len(report.problems) == 2
    assert "n1_mask.nii: by its header it begins zyx 0 0 3 voxels away from" in report.problems[0]
    assert report.problems[1].startswith("n2: the mask states voxels of zyx 1 1 1 um, the image of 2 1 1 um")
    assert report.notes[0] == "n0: the mask is stored with other axes than the image: turned as both headers say"
    assert report.notes[1].startswith("n3: voxels of zyx 2000 1 1 um; a size outside 1 nm to 1 mm is rarely right")
    facts = report.cases[0].facts  # mirrored as it is stored
    assert facts is not None
    assert facts.gold_voxels == cases["n0"][1].sum()
    loaded = DistillDataModule(experiment_of(tmp_path)).source.load("n0")
    np.testing.assert_array_equal(loaded.mask, cases["n0"][1])


def test_a_constant_volume_is_found(folder):
    write_volume(folder / "n0.tif", Volume(np.full(SHAPE, 7, np.uint8), SPACING))
    assert problems_of(folder) == ("n0: every voxel is 7",)


def test_a_tree_that_leaves_the_volume_is_found(folder):
    write_case(folder, "n1", tree=tree_of(shift=30.0))
    (problem,) = problems_of(folder)
    assert "of 20 nodes lie outside the volume; are spacing and units right?" in problem


def test_files_that_cannot_be_read_are_rows_and_not_the_end(folder):
    (folder / "n0.tif").write_bytes((folder / "n0.tif").read_bytes()[:300])
    (folder / "n3.swc").write_text("# nothing\n")
    report = check_data(experiment_of(folder))
    assert len(report.cases) == 4
    assert [problem.split(":")[0] for problem in report.problems] == ["n0", "n3"]
    assert "cannot be read" in printed(report)


def test_a_patch_larger_than_the_volume_and_sparse_labels_are_notes(tmp_path):
    write_labels(tmp_path)
    for name in ("n0", "n1", "n2", "n3"):
        write_volume(tmp_path / f"{name}.tif", Volume(np.random.default_rng(len(name)).random(SHAPE), SPACING))
        (tmp_path / f"{name}_label.tif").write_bytes((tmp_path / "t_label.tif").read_bytes())
    experiment = experiment_of(
        tmp_path,
        unknown_label=0,
        labels=(2,),
        train=("n0",),
        val=("n1",),
        test=(),
        patches=patches_of(size_zyx=(16, 8, 8)),
    )
    notes = check_data(experiment).notes
    assert notes[0] == "n0: patches 16x8x8 are larger than the volume 12x40x40: they are padded"
    assert notes[1].startswith("n0: 83.3% of the voxels are not labelled")


def test_training_cases_of_several_voxel_sizes_are_a_note(folder):
    assert not any("sizes" in note for note in check_data(experiment_of(folder)).notes)
    for name in ("n1", "n3"):  # a test case may differ
        data, _ = write_case(folder, name, tree=tree_of(shift=1), seed=int(name[1]))
        write_volume(folder / f"{name}.tif", Volume(data, (2.0, 0.5, 1.0)))
    notes = [note for note in check_data(experiment_of(folder)).notes if "sizes" in note]
    assert notes == ["training cases have voxels of 2 sizes: 2x1x1 um (n0); 2x0.5x1 um (n1)"]


def test_unknown_names_are_configuration_errors(folder):
    with pytest.raises(ConfigError, match="unknown case 'n9'"):
        check_data(experiment_of(folder, test=("n9",)))


def test_the_table_fits_100_columns_and_says_problems_in_words(folder):
    long = "a_name_of_a_case_that_is_longer_than_any_column_should_be_[bold]"
    write_case(folder, long)
    (folder / "n3.tif").write_bytes((folder / "n0.tif").read_bytes())
    text = printed(check_data(experiment_of(folder, train=("n0", "n1", long))))
    assert max(len(line) for line in text.splitlines()) <= 100
    assert "problem: n0 (train) and n3 (test) are the same image" in text
    assert "12x40x40" in text
    for heading in ("case", "split", "shape", "intensity", "gold voxels", "orphans", "mirrored", "y axis"):
        assert heading in text  # nothing is cut off at the right
    assert "bold" in text  # a name in brackets is a name, not markup


def test_a_clean_report_says_so():
    assert "no problem found in 0 cases" in printed(DataReport(()))


def test_real_cases_are_sound(data_dir, tmp_path):
    experiment = experiment_of(data_dir / "pairs", train=("OP_1",), val=("OP_5",), test=(), spacing_um=(3.03, 1.0, 1.0))
    report = check_data(replace(experiment, cache=str(tmp_path)))
    assert report.problems == ()
    assert all(case.facts is not None and case.facts.flip.verdict == "fine" for case in report.cases)
