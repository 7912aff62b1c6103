"""The layout of nnU-Net's folders as a choice of the source `neurons`."""

import json

import numpy as np
import pytest
from made_cases import SHAPE, SPACING, tree_of

from distill3d.data.neurons import Neurons, NeuronsConfig
from distill3d.errors import ConfigError, InputError
from distill3d.volumes.swc import write_swc
from distill3d.volumes.volume import Volume, write_volume

ABOUT = {
    "channel_names": {"0": "GFP", "1": "DAPI"},
    "labels": {"background": 0, "neuron": 1, "ignore": 2},
    "numTraining": 4,
    "file_ending": ".tif",
}


def write_dataset(folder, about=ABOUT, channel="_000{}"):
    """Cases c0 to c3 to train on and t0 held out; voxels of channel k of case n are 10 * n + k + 1."""
    for part, names in (("Tr", ("c0", "c1", "c2", "c3")), ("Ts", ("t0",))):
        for n, name in enumerate(names):
            for k in (0, 1) if channel else (0,):
                image = Volume(np.full(SHAPE, 10 * n + k + 1, np.uint8), SPACING)
                write_volume(folder / f"images{part}" / f"{name}{channel.format(k)}.tif", image)
            labels = np.zeros(SHAPE, np.uint8)
            labels[n], labels[-1] = 1, 2
            write_volume(folder / f"labels{part}" / f"{name}.tif", Volume(labels, SPACING))
    write_volume(folder / "imagesTs" / "u0_0000.tif", Volume(np.ones(SHAPE, np.uint8), SPACING))  # without a label
    if about is not None:
        (folder / "dataset.json").write_text(json.dumps(about))


def source_of(folder, **settings):
    return Neurons(NeuronsConfig(folder=str(folder), layout="nnunet", **settings), cache=folder / "cache")


def test_cases_bear_their_names_and_ignored_voxels_are_unknown(tmp_path):
    write_dataset(tmp_path)
    write_swc(tmp_path / "labelsTr" / "c1.swc", tree_of(), spacing_um=SPACING)
    source = source_of(tmp_path)
    assert list(source.case_files) == ["c0", "c1", "c2", "c3", "t0"]
    case = source.load("c1")
    assert (case.volume.data == 11).all()
    assert case.volume.spacing_um == SPACING
    np.testing.assert_array_equal(np.flatnonzero(case.mask.any(axis=(1, 2))), [1])
    np.testing.assert_array_equal(np.flatnonzero(~case.known.any(axis=(1, 2))), [SHAPE[0] - 1])
    assert case.tree is not None
    assert case.tree.n_nodes == 20
    assert (source_of(tmp_path, volume="{stem}_0001").load("c1").volume.data == 12).all()
    assert source_of(tmp_path, unknown_label=0, labels=(1,)).load("c1").known.sum() == 2 * SHAPE[1] * SHAPE[2]


@pytest.mark.parametrize(("about", "channel"), [(None, "_000{}"), ({"modality": {"0": "x"}}, ""), (ABOUT, "_000{}")])
def test_dataset_json_may_be_missing_and_names_may_bear_no_channel(tmp_path, about, channel):
    write_dataset(tmp_path, about, channel)
    assert (source_of(tmp_path).load("c2").volume.data == 21).all()


@pytest.mark.parametrize(
    ("settings", "test", "others"),
    [
        ({}, {"t0"}, {"c0", "c1", "c2", "c3"}),
        ({"test": ("c0",)}, {"c0"}, {"c1", "c2", "c3"}),
        ({"test": ("c0", "t*")}, {"c0", "t0"}, {"c1", "c2", "c3"}),
        ({"folds": 4, "fold": 1}, None, {"c0", "c1", "c2", "c3"}),
        ({"train": ("t0",), "val": ("c1",)}, set(), {"t0", "c1"}),
    ],
)
def test_what_the_layout_holds_out_is_trained_on_only_where_a_list_says_so(tmp_path, settings, test, others):
    write_dataset(tmp_path)
    parts = source_of(tmp_path, **settings).splits()
    assert test is None or set(parts["test"]) == test
    dealt = {*parts["train"], *parts["val"], *(parts["test"] if test is None else ())}
    assert dealt == others


FOLDS = ["c3"], ["c0", "c2"], ["c1", "gone"]  # what nnU-Net keeps out of each fold's training


def write_folds(folder, folds=FOLDS):
    every = sorted(name for fold in folds for name in fold)
    content = [{"train": [name for name in every if name not in fold], "val": fold} for fold in folds]
    (folder / "splits_final.json").write_text(json.dumps(content))


def test_folds_are_those_that_nnunet_dealt_out(tmp_path):
    write_dataset(tmp_path)
    write_folds(tmp_path)
    dealt = [source_of(tmp_path, folds=3, fold=fold, split_seed=fold).splits() for fold in range(3)]
    assert [parts["test"] for parts in dealt] == [("c3",), ("c0", "c2"), ("c1",)]
    assert [parts["val"] for parts in dealt] == [("c0", "c2"), ("c1",), ("c3",)]
    assert [parts["train"] for parts in dealt] == [("c1",), ("c3",), ("c0", "c2")]
    assert source_of(tmp_path, folds=3, exclude=("c2",)).splits()["val"] == ("c0",)
    assert source_of(tmp_path).splits()["test"] == ("t0",)  # no folds were asked for


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([{"val": ["c0"]}] * 4, r"data\.folds=3, but .*splits_final\.json has 4 folds; accepted: as many"),
        ([{"val": ["c0", "c1"]}, {"val": ["c2"]}, {"val": ["c1", "c3"]}], "'c1' is in val of 2 folds"),
        ([{"val": ["c0"]}, {"val": ["c2"]}, {"val": ["c1"]}], "'c3' is in val of 0 folds; accepted: each case in one"),
        ({"val": ["c0"]}, "not a list of train and val"),
        ([["c0"]], "not a list of train and val"),
        (None, "not a list of train and val"),
    ],
)
def test_folds_that_are_none_of_these_cases_are_refused_in_one_line(tmp_path, content, message):
    write_dataset(tmp_path)
    (tmp_path / "splits_final.json").write_text(json.dumps(content))
    with pytest.raises((ConfigError, InputError), match=message) as caught:
        source_of(tmp_path, folds=3).splits()
    assert len(caught.value.lines) == 1


def test_the_spacing_beside_a_tiff_counts_and_one_that_contradicts_its_header_is_a_doubt(tmp_path):
    write_dataset(tmp_path)
    source = source_of(tmp_path)
    key = source.key("c0")
    (tmp_path / "imagesTr" / "c0.json").write_text(json.dumps({"spacing": [5, 2, 1]}))
    case = source_of(tmp_path).load("c0")
    assert case.volume.spacing_um == (5.0, 2.0, 1.0)
    assert case.doubts[0].startswith("the file beside it states voxels of zyx 5 2 1 um, the image of 2 1 1 um")
    assert source_of(tmp_path).key("c0") != key
    assert source_of(tmp_path, spacing_um=(3.0, 1.0, 1.0)).load("c0").doubts == ()


@pytest.mark.parametrize(
    ("spoil", "settings", "message"),
    [
        (
            lambda f: (f / "imagesTr").rename(f / "images"),
            {},
            "no folder imagesTr in it; accepted with data.layout=nnunet",
        ),
        (lambda f: (f / "dataset.json").write_text("{"), {}, r"dataset\.json: not JSON"),
        (lambda f: (f / "dataset.json").write_text("[]"), {}, r"dataset\.json: holds a list"),
        (
            lambda f: (f / "dataset.json").write_text('{"file_ending": ".png"}'),
            {},
            r"'\.png' is not read; accepted are",
        ),
        (lambda f: (f / "imagesTr" / "c0.json").write_text('{"spacing": [1]}'), {}, r"c0\.json: spacing \[1\]; three"),
        (lambda f: None, {"volume": "{stem}_0007"}, r"no image \{stem\}_0007 .*channels of dataset.json: 0 GFP 1 DAPI"),
    ],
)
def test_a_folder_of_another_kind_is_refused_in_one_line(tmp_path, spoil, settings, message):
    write_dataset(tmp_path)
    spoil(tmp_path)
    with pytest.raises(InputError, match=message) as caught:
        source_of(tmp_path, **settings).splits()
    assert len(caught.value.lines) == 1


def test_a_channel_within_files_has_no_meaning_for_this_layout():
    with pytest.raises(ValueError, match=r"channel=1; accepted: neither, its channels are files"):
        NeuronsConfig(folder="x", layout="nnunet", channel=1)
