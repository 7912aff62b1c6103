"""The source `neurons`: cases by name, splits by neuron, trees, masks, flips, hard variants, bad input."""

import fnmatch
import gzip
import json
import logging
from dataclasses import replace

import nrrd
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from made_cases import SHAPE, SPACING, tree_of, write_case, write_labels
from made_gold166 import NEURONS, TEST, line, write_gold166

from distill3d.config.registry import DATA, Component
from distill3d.data.background import HardConfig
from distill3d.data.case_files import find_case_files
from distill3d.data.gold import GoldRules
from distill3d.data.neurons import Neurons, NeuronsConfig
from distill3d.data.splits import select, split_by_folds, split_by_fractions, split_by_lists
from distill3d.errors import ConfigError, InputError
from distill3d.evaluation.file_scores import score_files
from distill3d.volumes.origin import as_notes
from distill3d.volumes.prob import write_prob
from distill3d.volumes.swc import write_swc
from distill3d.volumes.volume import Volume, open_volume, write_volume


def source_of(folder, **settings):
    return Neurons(NeuronsConfig(folder=str(folder), **settings), cache=folder / "cache")


@pytest.fixture
def folder(tmp_path):
    for k in range(5):
        write_case(tmp_path, f"n{k}", seed=k)
    return tmp_path


# ---------------------------------------------------------------- splits


NAMES = st.lists(st.text("abcdef0123", min_size=1, max_size=6), min_size=3, max_size=30, unique=True)


@settings(max_examples=100, deadline=None)
@given(names=NAMES, seed=st.integers(0, 50), cut=st.tuples(st.floats(0.05, 0.45), st.floats(0, 0.45)))
def test_fractions_give_disjoint_splits_that_hold_every_name(names, seed, cut):
    val, test = cut
    parts = split_by_fractions(names, (1 - val - test, val, test), seed)
    joined = [name for part in parts.values() for name in part]
    assert sorted(joined) == sorted(names)
    assert parts["train"]
    assert parts["val"]
    assert bool(parts["test"]) == (test > 0)


@settings(max_examples=100, deadline=None)
@given(names=NAMES, seed=st.integers(0, 50), folds=st.integers(3, 6))
def test_over_all_folds_every_case_tests_once_and_validates_once(names, seed, folds):
    if len(names) < folds:
        with pytest.raises(ConfigError, match="folds"):
            split_by_folds(names, folds, 0, seed)
        return
    parts = [split_by_folds(names, folds, fold, seed) for fold in range(folds)]
    for split in ("test", "val"):
        assert sorted(name for part in parts for name in part[split]) == sorted(names)
    for part in parts:
        assert sorted([*part["train"], *part["val"], *part["test"]]) == sorted(names)


def test_fractions_depend_on_the_seed_and_not_on_the_order_of_the_files():
    names = [f"n{k}" for k in range(20)]
    first = split_by_fractions(names, (0.6, 0.2, 0.2), 0)
    assert first == split_by_fractions(names[::-1], (0.6, 0.2, 0.2), 0)
    assert first != split_by_fractions(names, (0.6, 0.2, 0.2), 1)
    assert [len(first[split]) for split in ("train", "val", "test")] == [12, 4, 4]


def test_lists_report_every_unknown_and_every_repeated_name_at_once():
    with pytest.raises(ConfigError) as caught:
        split_by_lists(["OP_1", "OP_2", "OP_3"], {"train": ["OP_1", "OP_11"], "val": ["OP_1"], "test": ["zebra"]})
    assert len(caught.value.lines) == 3
    assert "did you mean 'OP_1'" in caught.value.lines[0]
    assert "'OP_1' is in train already" in caught.value.lines[1]
    assert "found: OP_1, OP_2, OP_3" in caught.value.lines[2]


def test_a_pattern_that_matches_nothing_is_an_error():
    assert select(["a1", "a2", "b1"], ["a*"], ["*2"]) == ("a1",)
    with pytest.raises(ConfigError, match=r"data\.exclude: 'c\*' matches no case"):
        select(["a1"], [], ["c*"])


def test_a_source_splits_by_lists_fractions_or_folds(folder):
    lists = source_of(folder, train=("n0", "n3"), val=("n1",), test=("n4",)).splits()
    assert lists == {"train": ("n0", "n3"), "val": ("n1",), "test": ("n4",)}
    assert {k: len(v) for k, v in source_of(folder).splits().items()} == {"train": 3, "val": 1, "test": 1}
    assert {k: len(v) for k, v in source_of(folder, folds=5).splits().items()} == {"train": 3, "val": 1, "test": 1}
    kept = source_of(folder, exclude=("n[12]",)).splits()
    assert sorted(name for part in kept.values() for name in part) == ["n0", "n3", "n4"]


def test_too_few_cases_for_the_splits_is_one_line(tmp_path):
    write_case(tmp_path, "one")
    with pytest.raises(ConfigError, match="cannot fill splits"):
        source_of(tmp_path).splits()


# ---------------------------------------------------------------- which files make a case


def test_a_tree_becomes_a_mask_in_the_volume_s_grid(folder):
    case = source_of(folder).load("n0")
    data, mask = write_case(folder, "again", seed=0)
    assert np.array_equal(case.volume.data, data)
    assert case.volume.spacing_um == SPACING
    assert np.array_equal(case.mask, mask)
    assert case.known.all()
    assert case.tree is not None
    assert np.allclose(case.tree.points_zyx_um, tree_of().points_zyx_um)


def test_trees_in_micrometers_are_read_as_such(tmp_path):
    _, mask = write_case(tmp_path, "n")
    write_swc(tmp_path / "n.swc", tree_of())
    assert np.array_equal(source_of(tmp_path, tree_units="um").load("n").mask, mask)
    assert not np.array_equal(source_of(tmp_path, tree_units="voxel").load("n").mask, mask)


def test_the_radius_rule_is_followed(folder):
    sizes = [
        source_of(folder, **rule).load("n0").mask.sum()
        for rule in (
            {"radius": "fixed", "radius_um": 0.5},
            {},
            {"radius_scale": 2.0},
            {"min_radius_um": 4.0},
        )
    ]
    assert sizes == sorted(set(sizes))  # each thicker than the one before


def test_names_follow_templates_and_a_mask_wins_over_a_drawn_tree(tmp_path):
    data, mask = write_case(tmp_path, "a_volume")
    (tmp_path / "a_volume.swc").rename(tmp_path / "a-expected.swc")
    values = np.where(mask, 7, 0).astype(np.uint8)
    values[0, 0, 0] = 7
    write_volume(tmp_path / "a_label.tif", Volume(values, SPACING))
    case = source_of(tmp_path, volume="{stem}_volume", tree="{stem}-expected.swc").load("a")
    assert np.array_equal(case.volume.data, data)
    assert np.array_equal(case.mask, values == 7)
    assert case.tree is not None


def test_mask_files_are_not_taken_for_volumes_and_volumes_without_gold_are_left_out(tmp_path, caplog):
    for name in ("a", "b", "c"):
        write_case(tmp_path, name)
    write_volume(tmp_path / "a_mask.tif", Volume(np.ones(SHAPE, np.uint8), SPACING))
    (tmp_path / "c.swc").unlink()
    with caplog.at_level(logging.INFO):
        assert list(source_of(tmp_path).case_files) == ["a", "b"]
    assert "neither tree nor mask: c" in caplog.text
    assert "a_mask" not in caplog.text


@pytest.mark.parametrize("suffix", [".eswc", ".swc.gz"])
def test_a_tree_may_have_another_suffix_of_trees_and_swc_wins(tmp_path, suffix):
    write_case(tmp_path, "n")
    text = (tmp_path / "n.swc").read_bytes()
    (tmp_path / f"n{suffix}").write_bytes(gzip.compress(text) if suffix.endswith("gz") else text)
    assert source_of(tmp_path).case_files["n"].tree == tmp_path / "n.swc"
    (tmp_path / "n.swc").unlink()
    case = source_of(tmp_path).load("n")
    assert case.tree is not None
    assert np.allclose(case.tree.points_zyx_um, tree_of().points_zyx_um)


def test_stacks_that_are_not_read_are_named(tmp_path, caplog):
    (tmp_path / "m.czi").touch()
    (tmp_path / "m.nd2").touch()
    with pytest.raises(InputError, match=r"2 stacks such as m\.czi are not read, accepted are \.tif"):
        source_of(tmp_path).splits()
    write_case(tmp_path, "n")
    assert list(source_of(tmp_path).case_files) == ["n"]
    assert "not read and left out: m.czi, m.nd2; accepted are .tif" in caplog.text


def test_the_key_follows_the_data_file_of_a_detached_header(tmp_path):
    write_case(tmp_path, "n")
    (tmp_path / "n.tif").unlink()
    nrrd.write(str(tmp_path / "n.nhdr"), np.ones(SHAPE, np.uint8), index_order="C", detached_header=True)
    key, header = source_of(tmp_path).key("n"), (tmp_path / "n.nhdr").read_bytes()
    nrrd.write(str(tmp_path / "n.nhdr"), np.full(SHAPE, 2, np.uint8), index_order="C", detached_header=True)
    (tmp_path / "n.nhdr").write_bytes(header)
    assert source_of(tmp_path).key("n") != key


@pytest.mark.parametrize("nested", [False, True])
def test_files_that_operating_systems_leave_are_no_cases(folder, nested):
    for name in ("n0.tif", "n0.swc"):
        (folder / f"._{name}").write_bytes(b"\x00\x05\x16\x07")
        (folder / ".copies").mkdir(exist_ok=True)
        (folder / ".copies" / name).write_bytes((folder / name).read_bytes())
    assert list(source_of(folder, nested=nested).case_files) == ["n0", "n1", "n2", "n3", "n4"]


def test_suffixes_in_capitals_are_found_for_volumes_trees_and_masks_alike(folder):
    for name in ("n0.tif", "n0.swc", "n1.swc"):
        (folder / name).rename(folder / f"{name[:3]}{name[3:].upper()}")
    (folder / "n2.tif").rename(folder / "n2_mask.TIF")
    (folder / "n2.swc").rename(folder / "n3.SWC")
    write_case(folder, "n2")
    files = source_of(folder).case_files
    assert files["n0"].tree == folder / "n0.SWC"
    assert files["n1"].tree == folder / "n1.SWC"
    assert files["n2"].mask == folder / "n2_mask.TIF"
    assert files["n3"].tree == folder / "n3.swc"  # of two, the one as the template spells it
    assert len(files) == 5


def test_two_volumes_of_one_name_are_refused(folder):
    np.save(folder / "n0.npy", np.ones(SHAPE, np.uint8))
    with pytest.raises(InputError, match=r"n0\.npy and n0\.tif are both volumes"):
        source_of(folder).splits()


def test_a_tree_of_several_is_the_last_by_name_and_belongs_to_one_volume(tmp_path):
    write_case(tmp_path, "a[1]")
    for name in ("a[1].v3dpbd_stamp_2015_06_15.swc", "a[1].v3dpbd_stamp_2015_06_16.swc"):
        write_swc(tmp_path / name, tree_of())
    case = source_of(tmp_path, tree="{stem}*.swc").case_files["a[1]"]
    assert case.tree == tmp_path / "a[1].v3dpbd_stamp_2015_06_16.swc"
    write_case(tmp_path, "n")
    write_case(tmp_path, "n_b")
    with pytest.raises(InputError, match=r"n_b\.swc: the tree of both 'n' and 'n_b'"):
        source_of(tmp_path, tree="{stem}*.swc").splits()


def test_an_ome_tiff_is_paired_with_gold_of_its_name(tmp_path):
    for name in "ab":
        write_case(tmp_path, name)
        (tmp_path / f"{name}.tif").rename(tmp_path / f"{name}.ome.tif")
    write_labels(tmp_path)
    (tmp_path / "t.tif").rename(tmp_path / "t.OME.TIF")
    (tmp_path / "t_label.tif").rename(tmp_path / "t_label.ome.tif")

    files = source_of(tmp_path).case_files

    assert {name: (each.tree and each.tree.name, each.mask and each.mask.name) for name, each in files.items()} == {
        "a": ("a.swc", None),
        "b": ("b.swc", None),
        "t": (None, "t_label.ome.tif"),
    }
    assert source_of(tmp_path).load("a").volume.spacing_um == SPACING


def test_finding_cases_looks_at_each_name_about_once(tmp_path, monkeypatch):
    for k in range(60):
        (tmp_path / f"n{k}.tif").touch()
        (tmp_path / f"n{k}.swc").touch()
    looked, fits = [], fnmatch.filter
    monkeypatch.setattr(fnmatch, "filter", lambda names, pattern: looked.extend(names) or fits(names, pattern))

    cases = find_case_files(tmp_path, volume="{stem}", tree="{stem}.swc", masks=("{stem}_mask",))

    assert {name: each.tree for name, each in cases.items()} == {f"n{k}": tmp_path / f"n{k}.swc" for k in range(60)}
    assert len(looked) < 60 * 60


def test_a_star_beside_the_stem_cuts_no_number(tmp_path):
    for name in ("cell1", "cell10", "2a"):
        write_case(tmp_path, name)
        (tmp_path / f"{name}.swc").rename(tmp_path / f"trace_{name}.swc")
    for name in ("trace_cell12.swc", "12a.swc", "z12a.swc"):  # of neurons whose stacks lie elsewhere
        write_swc(tmp_path / name, tree_of())
    trees = {name: files.tree.name for name, files in source_of(tmp_path, tree="*{stem}*.swc").case_files.items()}
    assert trees == {name: f"trace_{name}.swc" for name in ("2a", "cell1", "cell10")}


def test_a_tree_that_was_traced_here_is_not_gold(tmp_path, caplog):
    traced = as_notes(made_from="sha256:abc")
    for name in ("n0", "n1", "n2"):
        write_case(tmp_path, name)
        write_swc(tmp_path / f"{name}_trace.swc", tree_of(), notes=traced)
    write_swc(tmp_path / "n0.swc", tree_of(), notes=traced)
    write_swc(tmp_path / "n0.eswc", tree_of())
    write_swc(tmp_path / "n1.swc", tree_of(), notes=traced)
    assert {name: files.tree for name, files in source_of(tmp_path).case_files.items()} == {
        "n0": tmp_path / "n0.eswc",
        "n2": tmp_path / "n2.swc",
    }
    said = f"{tmp_path}: left out, since distill3d traced them and they are no gold: n0.swc, n1.swc"
    assert [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING] == [said]
    assert source_of(tmp_path, tree="{stem}*.swc").case_files["n2"].tree == tmp_path / "n2.swc"  # not the last by name
    for name in ("n0.eswc", "n2.swc"):
        (tmp_path / name).unlink()
    with pytest.raises(InputError, match=r"none of 3 volumes has a gold .*; left out, since distill3d traced"):
        _ = source_of(tmp_path).case_files


# ---------------------------------------------------------------- nested folders


def test_cases_of_nested_folders_bear_the_names_of_their_folders(tmp_path):
    write_gold166(tmp_path)
    write_case(tmp_path / TEST, "loose")
    write_case(tmp_path / TEST, "second")
    (tmp_path / "p_empty").mkdir()
    source = source_of(tmp_path, nested=True, tree="*{stem}*.swc")
    assert set(source.case_files) == {*NEURONS, f"{TEST}__loose", f"{TEST}__second"}
    for k, name in enumerate(NEURONS):
        case = source.load(name)
        assert case.tree is not None
        assert np.array_equal(case.tree.points_zyx_um, line(10.0 + 8 * k).points_zyx_um)
        assert case.volume.data[case.mask].min() > 180 > case.volume.data[~case.mask].max()


def test_a_pattern_under_test_holds_a_subset_out_and_the_others_are_dealt(tmp_path):
    write_gold166(tmp_path)
    arguments = {"nested": True, "tree": "*{stem}*.swc", "test": (f"{TEST}__*",)}
    parts = source_of(tmp_path, **arguments, fractions=(0.5, 0.25, 0.25)).splits()
    assert [len(parts[split]) for split in ("train", "val", "test")] == [2, 1, 1]
    assert {name for part in parts.values() for name in part} == set(NEURONS)
    assert parts["test"][0].startswith(TEST)
    with pytest.raises(ConfigError, match=r"data\.test: unknown case 'p_checked9__\*'"):
        source_of(tmp_path, **arguments | {"test": ("p_checked9__*",)}).splits()


def test_two_neurons_that_would_bear_one_name_are_refused(tmp_path):
    for folder in (tmp_path / "a" / "b", tmp_path / "a__b"):
        folder.mkdir(parents=True)
        write_case(folder, "n")
    with pytest.raises(InputError, match="are both case 'a__b'"):
        source_of(tmp_path, nested=True).splits()


# ---------------------------------------------------------------- masks with unknown voxels


def test_only_labelled_voxels_are_known_and_only_the_chosen_labels_are_gold(tmp_path):
    labels = write_labels(tmp_path)
    case = source_of(tmp_path, labels=(2,), unknown_label=0).load("t")
    assert np.array_equal(case.known, labels > 0)
    assert np.array_equal(case.mask, labels == 2)
    assert case.tree is None


def test_without_a_choice_every_label_is_gold_and_all_voxels_are_known(tmp_path):
    labels = write_labels(tmp_path)
    case = source_of(tmp_path).load("t")
    assert case.known.all()
    assert np.array_equal(case.mask, labels > 0)


@pytest.mark.parametrize("count", [2, 30], ids=["few labels", "many labels"])
def test_labels_that_leave_no_background_are_refused_unless_it_is_said_which_are_neuron(tmp_path, count):
    labels = write_labels(tmp_path) * 0 + 1
    labels[4, 10, : count - 1] = np.arange(2, count + 1)
    write_volume(tmp_path / "t_label.tif", Volume(labels, SPACING))

    with pytest.raises(InputError, match=r"t_label.tif: labels from 1 on, and no voxel is 0, .* data.labels=\[2\]"):
        source_of(tmp_path).load("t")
    with pytest.raises(InputError, match="labels from 1 on, and no voxel is 0" if count == 2 else "many values from 1"):
        score_files(tmp_path / "t_label.tif", tmp_path / "t_label.tif", spacing_um=SPACING)

    assert np.array_equal(source_of(tmp_path, labels=(2,)).load("t").mask, labels == 2)


@pytest.mark.parametrize("kind", ["many labels", "probability", "says that it is one"])
def test_gold_is_what_evaluate_takes_for_neuron(tmp_path, kind):
    write_labels(tmp_path)
    ramp, path = np.linspace(0, 1, np.prod(SHAPE)).reshape(SHAPE), tmp_path / "t_label.tif"
    values = (ramp * 200).round().astype(np.uint8) if kind == "many labels" else ramp.astype(np.float32)
    if kind == "says that it is one":
        write_prob(path, values, SPACING)
    else:
        write_volume(path, Volume(values, SPACING))
    mask = source_of(tmp_path).load("t").mask
    assert np.array_equal(mask, values > 0 if kind == "many labels" else ramp >= 0.5)
    assert score_files(path, path, spacing_um=SPACING)["n_gold"] == mask.sum()
    opened = GoldRules().open_mask(path, open_volume(tmp_path / "t.tif"), image=tmp_path / "t.tif")
    assert np.array_equal(opened.mask[:, :, :], mask)


def test_an_unknown_label_is_never_gold(tmp_path):
    labels = write_labels(tmp_path)
    case = source_of(tmp_path, unknown_label=3).load("t")
    assert np.array_equal(case.known, labels != 3)
    assert np.array_equal(case.mask, np.isin(labels, (1, 2, 4)))


def test_real_trailmap_masks_know_a_few_planes_only(data_dir):
    source = source_of(
        data_dir / "masks", volume="{stem}_volume", labels=(2,), unknown_label=0, spacing_um=(1.0, 1.0, 1.0)
    )
    assert len(source.case_files) == 5
    case = source.load("trailmap_train_0")
    planes = case.known.any(axis=(1, 2))
    assert 2 <= planes.sum() <= 3
    assert 0.1 < case.mask.sum() / case.known.sum() < 0.3
    assert not (case.mask & ~case.known).any()


# ---------------------------------------------------------------- flips


@pytest.fixture
def flipped(tmp_path):
    _, mask = write_case(tmp_path, "n")
    tree = tree_of()
    mirrored = tree.points_zyx_um * (1, -1, 1) + (0, SHAPE[1] - 1, 0)
    write_swc(tmp_path / "n.swc", replace(tree, points_zyx_um=mirrored), spacing_um=SPACING)
    return tmp_path, mask


def test_a_flipped_tree_is_reported_and_left_alone_unless_asked(flipped, caplog):
    folder, mask = flipped
    case = source_of(folder).load("n")
    assert "data.flip_y=auto mends it" in caplog.text
    assert not (case.mask & mask).any()


@pytest.mark.parametrize("choice", ["auto", "always"])
def test_a_flipped_tree_is_mirrored_back_where_asked(flipped, choice):
    folder, mask = flipped
    assert np.array_equal(source_of(folder, flip_y=choice).load("n").mask, mask)


def test_auto_leaves_a_right_tree_alone_and_always_does_not(folder, caplog):
    right = source_of(folder).load("n0").mask
    assert np.array_equal(source_of(folder, flip_y="auto").load("n0").mask, right)
    assert not (source_of(folder, flip_y="always").load("n0").mask & right).any()
    assert not caplog.text


# ---------------------------------------------------------------- hard variants


def write_noise(folder, seed=0):
    data = np.random.default_rng(seed).normal(300, 20, (24, 48, 48)).clip(0).astype(np.uint16)
    folder.mkdir(exist_ok=True)
    write_volume(folder / "noise.tif", Volume(data, (1.0, 1.0, 1.0)))


def test_a_hard_variant_changes_the_image_only_and_is_the_same_every_time(folder):
    write_noise(folder / "bg")
    hard = HardConfig(enabled=True, contrast=2.0, backgrounds=("bg",))
    clean, first, again = (
        source_of(folder).load("n0"),
        source_of(folder, hard=hard).load("n0"),
        source_of(folder, hard=hard).load("n0"),
    )
    assert np.array_equal(first.mask, clean.mask)
    assert np.array_equal(first.volume.data, again.volume.data)
    assert first.volume.spacing_um == SPACING

    def contrast(case):
        inside, outside = case.volume.data[case.mask].astype(float), case.volume.data[~case.mask].astype(float)
        return (inside.mean() - outside.mean()) / outside.std()

    assert contrast(clean) > 20
    assert 0.5 < contrast(first) < 4
    assert not np.array_equal(source_of(folder, hard=hard).load("n1").volume.data, first.volume.data)


def test_a_missing_background_is_one_line(folder):
    hard = HardConfig(enabled=True, backgrounds=("nowhere",))
    with pytest.raises(InputError, match="nowhere") as caught:
        source_of(folder, hard=hard).key("n0")
    assert len(caught.value.lines) == 1


# ---------------------------------------------------------------- keys


def test_the_key_follows_files_and_settings_that_shape_a_case_and_no_others(folder):
    write_noise(folder / "bg")
    hard = HardConfig(enabled=True, backgrounds=("bg",))
    key = source_of(folder).key("n0")
    assert source_of(folder, train=("n0",), val=("n1",), split_seed=3).key("n0") == key
    assert source_of(folder, hard=HardConfig(contrast=9.0)).key("n0") == key  # not enabled
    others = [
        source_of(folder).key("n1"),
        source_of(folder, min_radius_um=2.0).key("n0"),
        source_of(folder, spacing_um=(3.0, 1.0, 1.0)).key("n0"),
        source_of(folder, hard=hard).key("n0"),
        source_of(folder, hard=replace(hard, contrast=1.0)).key("n0"),
    ]
    write_noise(folder / "bg", seed=1)
    others.append(source_of(folder, hard=hard).key("n0"))
    write_swc(folder / "n0.swc", tree_of(shift=1.0), spacing_um=SPACING)
    others.append(source_of(folder).key("n0"))
    assert len({key, *others}) == len(others) + 1


def test_a_key_is_text_that_json_can_hold(folder):
    assert json.loads(json.dumps(source_of(folder).key("n0"))) == source_of(folder).key("n0")


# ---------------------------------------------------------------- bad input


def test_a_missing_folder_says_how_to_set_it(tmp_path):
    with pytest.raises(InputError, match="DISTILL3D_DATA") as caught:
        source_of(tmp_path / "nowhere").splits()
    assert len(caught.value.lines) == 1


def test_a_folder_without_cases_says_what_it_looked_for(tmp_path):
    (tmp_path / "a.swc").touch()
    with pytest.raises(InputError, match=r"\{stem\}\.swc or \{stem\}_mask"):
        source_of(tmp_path).splits()


def test_tree_beside_its_volume_is_one_line_that_names_the_file(tmp_path):
    write_case(tmp_path, "n", tree=tree_of(shift=500.0))
    with pytest.raises(InputError, match=r"n\.swc: volume and tree do not overlap") as caught:
        source_of(tmp_path).load("n")
    assert len(caught.value.lines) == 1


def test_an_empty_tree_is_one_line(folder):
    (folder / "n0.swc").write_text("# nothing\n")
    with pytest.raises(InputError, match=r"n0\.swc: no node found"):
        source_of(folder).load("n0")


def test_a_black_volume_is_one_line(folder):
    write_volume(folder / "n0.tif", Volume(np.zeros(SHAPE, np.uint8), SPACING))
    with pytest.raises(InputError, match=r"n0\.tif: every voxel is 0"):
        source_of(folder).load("n0")


def test_a_mask_of_another_shape_is_one_line(folder):
    write_volume(folder / "n0_mask.tif", Volume(np.ones((3, 4, 5), np.uint8), SPACING))
    with pytest.raises(InputError, match=r"mask of shape \(3, 4, 5\)"):
        source_of(folder).load("n0")


def test_a_mask_where_nobody_labelled_anything_is_one_line(folder):
    write_volume(folder / "n0_mask.tif", Volume(np.zeros(SHAPE, np.uint8), SPACING))
    with pytest.raises(InputError, match="unknown label"):
        source_of(folder, unknown_label=0, labels=(1,)).load("n0")


def test_a_case_that_is_not_there_is_one_line(folder):
    with pytest.raises(InputError, match="no case 'x'"):
        source_of(folder).load("x")


@pytest.mark.parametrize(
    ("wrong", "text"),
    [
        ({"volume": "stack"}, "must hold"),
        ({"masks": ("a_{stem}", "b")}, "masks='b'"),
        ({"radius_um": 0.0}, "radius_um=0.0"),
        ({"radius_scale": float("nan")}, "radius_scale=nan"),
        ({"spacing_um": (0.0, 1.0, 1.0)}, "spacing_um"),
        ({"min_radius_um": -1.0}, "min_radius_um=-1.0"),
        ({"labels": (0, 2), "unknown_label": 0}, "unknown_label=0"),
        ({"train": ("a",), "val": ("a",)}, "a listed more than once"),
        ({"train": ("a",)}, "at least one name in train and one in val"),
        ({"train": ("a",), "val": ("b",), "folds": 3}, "exclude each other"),
        ({"folds": 2}, "folds=2"),
        ({"folds": 4, "fold": 4}, "fold=4"),
        ({"fold": 2, "train": ("a",), "val": ("b",)}, "fold=2 without folds deals nothing out; accepted: folds=5"),
        ({"unknown_label": 0}, r"unknown_label=0 without labels .*; accepted: labels="),
        ({"fractions": (0.5, 0.5, 0.5)}, "fractions"),
        ({"fractions": (1.0, 0.0, 0.0)}, "fractions"),
    ],
)
def test_settings_that_mean_nothing_are_refused_in_one_line(wrong, text):
    with pytest.raises(ValueError, match=text) as caught:
        NeuronsConfig(folder="x", **wrong)
    assert "\n" not in str(caught.value)


# ---------------------------------------------------------------- real cases


@pytest.mark.parametrize("name", ["OP_1", "OP_5"])
def test_real_cases_load_and_their_gold_is_bright(data_dir, name, caplog, tmp_path):
    config = NeuronsConfig(folder=str(data_dir / "pairs"), spacing_um=(3.03, 1.0, 1.0), min_radius_um=1.0)
    source = DATA.build(Component("neurons", config), cache=tmp_path)
    case = source.load(name)
    assert case.tree is not None
    assert 1e-5 < case.mask.mean() < 2e-3
    assert case.volume.data[case.mask].mean() > 50 * case.volume.data.mean()
    assert "y of the tree" not in caplog.text
