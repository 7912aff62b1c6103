"""How stacks are read as those of a run were, what a file says of itself, and what its values mean."""

import logging

import numpy as np
import pytest

from distill3d.errors import InputError
from distill3d.volumes.meaning import meaning_of, neuron_mask
from distill3d.volumes.origin import as_notes, is_taken, origin_of, stated_notes
from distill3d.volumes.prob import says_prob, write_prob
from distill3d.volumes.reading import Reading
from distill3d.volumes.stack_files import stem_of
from distill3d.volumes.swc import read_swc, stated_spacing, write_swc
from distill3d.volumes.tree import Tree
from distill3d.volumes.volume import Volume, read_volume, write_volume

STACK = np.arange(1, 121, dtype=np.uint8).reshape(4, 5, 6)
RULE = Reading(spacing_um=(3.0, 1.0, 1.0))


@pytest.mark.parametrize(
    ("reading", "stated", "asked", "taken", "warned"),
    [
        (Reading(), (2.0, 1.0, 1.0), None, (2.0, 1.0, 1.0), None),  # nothing is known of a run
        (Reading(trained_um=((2.0, 1.0, 1.0),)), (2.5, 1.0, 0.75), None, (2.5, 1.0, 0.75), None),  # a quarter
        (Reading(trained_um=((2.0, 1.0, 1.0),)), (2.0, 1.0, 0.7), None, (2.0, 1.0, 0.7), ("2x1x0.7", "2x1x1")),
        (Reading(trained_um=((2.0, 1.0, 1.0),)), (2.6, 1.0, 1.0), None, (2.6, 1.0, 1.0), ("2.6x1x1", "2x1x1")),
        (Reading(trained_um=((2.0, 1.0, 1.0),)), (2.0, 1.0, 1.0), (4, 1, 1), (4.0, 1.0, 1.0), ("4x1x1", "2x1x1")),
        (Reading(trained_um=((2.0, 1.0, 1.0), (9.0, 1.0, 1.0))), (8.0, 1.0, 1.0), None, (8.0, 1.0, 1.0), None),
        (RULE, (3.0, 1.0, 1.0), None, (3.0, 1.0, 1.0), None),
        (RULE, (1.0, 1.0, 1.0), None, (3.0, 1.0, 1.0), ("1x1x1", "3x1x1", "data.spacing_um of the run")),
        (RULE, (1.0, 1.0, 1.0), (3, 1, 1), (3.0, 1.0, 1.0), None),
        (RULE, None, None, (3.0, 1.0, 1.0), None),  # a file that states none
    ],
)
def test_the_spacing_of_a_run_s_data_holds_and_another_one_is_named(
    reading, stated, asked, taken, warned, tmp_path, caplog
):
    if stated is None:
        path = tmp_path / "a.npy"
        np.save(path, STACK)
    else:
        path = tmp_path / "a.tif"
        write_volume(path, Volume(STACK, stated))
    with caplog.at_level(logging.WARNING):
        assert reading.read(path, spacing_um=asked).spacing_um == pytest.approx(taken)
    lines = [line for line in caplog.messages if "the run was trained on" in line]
    assert len(lines) == (warned is not None)
    assert all(word in lines[0] for word in warned or ())


def test_the_channel_of_a_run_s_data_is_read(tmp_path):
    np.save(tmp_path / "a.npy", np.stack([STACK, STACK[::-1]]))
    assert (Reading(channel=1).read(tmp_path / "a.npy", spacing_um=(1, 1, 1)).data == STACK[::-1]).all()


@pytest.mark.parametrize(
    ("name", "stem"),
    [
        ("2024.05.12_cell1.tif", "2024.05.12_cell1"),
        ("cell 12.5um.tif", "cell 12.5um"),
        ("a.b.nii.gz", "a.b"),
        ("CELL.TIFF", "CELL"),
        ("cell[gfp].v3draw", "cell[gfp]"),
    ],
)
def test_only_the_suffix_of_the_format_is_no_part_of_the_stem(name, stem):
    assert stem_of(f"a.dir/{name}") == stem


@pytest.mark.parametrize("shape", [(4, 5, 6), (4, 5, 1)], ids=["ImageJ", "OME"])
def test_a_probability_says_so_and_what_it_came_from_in_either_flavor(shape, tmp_path):
    prob = np.linspace(0, 1, np.prod(shape), dtype=np.float32).reshape(shape)
    write_prob(tmp_path / "prob.tif", prob, (3.0, 0.5, 0.25), made_from=origin_of("x"))
    assert says_prob(tmp_path / "prob.tif")
    assert stated_notes(tmp_path / "prob.tif")["made_from"] == origin_of("x")
    assert read_volume(tmp_path / "prob.tif").spacing_um == pytest.approx((3.0, 0.5, 0.25))
    write_volume(tmp_path / "raw.tif", Volume(STACK))
    assert not says_prob(tmp_path / "raw.tif")
    assert not says_prob(tmp_path / "none.tif")


def test_a_file_is_taken_unless_it_came_from_the_same(tmp_path):
    source, tree = tmp_path / "source", tmp_path / "tree.swc"
    source.write_text("one")
    same = origin_of(source, "channel 0")
    assert not is_taken(tree, same)
    written = Tree(np.array([[1.0, 2.0, 3.0]]), np.ones(1), np.array([-1]), np.array([3]))
    write_swc(tree, written, spacing_um=(1, 1, 1), notes=as_notes(made_from=same))
    assert stated_spacing(tree) == (1, 1, 1)
    assert read_swc(tree).n_nodes == 1
    assert not is_taken(tree, origin_of(source, "channel 0"))
    assert is_taken(tree, origin_of(source, "channel 1"))
    source.write_text("other")
    assert is_taken(tree, origin_of(source, "channel 0"))
    write_swc(tree, written)
    assert is_taken(tree, same)  # of a program that says nothing


RAMP = np.linspace(0, 1, 120).reshape(4, 5, 6)


@pytest.mark.parametrize(
    ("values", "meaning"),
    [
        ([0, 255], "mask"),
        ([0, 0], "mask"),
        ([7, 7], "mask"),
        ([1, 2], "labels"),
        ([0, 1, 2, 4], "labels"),
        ([0.0, 0.25, 0.5], "many"),
        ([0.2, 0.9], "many"),
        (list(range(40)), "many"),
    ],
)
def test_values_of_a_file_that_says_nothing_mean(values, meaning, tmp_path):
    assert meaning_of(tmp_path / "a.npy", np.resize(np.array(values), (3, 5, 8))) == meaning


def test_a_header_outweighs_values(tmp_path):
    write_prob(tmp_path / "a.tif", np.array([[[0, 0.1], [0, 0]]]), (1, 1, 1))
    data = read_volume(tmp_path / "a.tif").data
    assert meaning_of(tmp_path / "a.tif", data) == "prob"
    assert not neuron_mask(tmp_path / "a.tif", data).any()


@pytest.mark.parametrize(
    ("data", "threshold", "right"),
    [
        ((RAMP * 255).round().astype(np.uint8), None, RAMP >= 0.5),
        ((RAMP * 65535).round().astype(np.uint16), None, RAMP >= 0.5),
        (RAMP.astype(np.float32), None, RAMP >= 0.5),
        (RAMP.astype(np.float32), 0.8, RAMP.astype(np.float32) >= np.float32(0.8)),
        ((RAMP * 40).round().astype(np.uint8), 0.0, (RAMP * 40).round() > 0),
        (np.where(RAMP > 0.3, 9, 0).astype(np.uint8), 0.8, RAMP > 0.3),  # a mask needs no threshold
        (np.floor(RAMP * 3).astype(np.uint8), None, RAMP >= 1 / 3),  # labels 0 to 3
        (np.floor(RAMP * 4).astype(np.uint8) * 60, 0.5, RAMP >= 0.75),  # 0, 60, ..., 240 of 255
    ],
    ids=["uint8", "uint16", "float", "threshold", "all but 0", "mask", "labels", "few values"],
)
def test_many_values_are_a_probability_with_a_threshold(data, threshold, right, tmp_path, caplog):
    with caplog.at_level(logging.WARNING):
        np.testing.assert_array_equal(neuron_mask(tmp_path / "a.npy", data, threshold), right)
    assert len(caplog.messages) == (len(np.unique(data)) > 2)


def test_labels_of_gold_are_labels_whatever_the_prediction_s_threshold(tmp_path):
    labels = np.floor(RAMP * 3).astype(np.uint8)
    np.testing.assert_array_equal(neuron_mask(tmp_path / "a.npy", labels, 0.5, gold=True), labels > 0)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int32, np.float32])
def test_many_labels_of_gold_are_labels_unless_a_threshold_is_given(dtype, tmp_path):
    labels = np.arange(120).reshape(4, 5, 6) // 3
    labels[labels > 9] += 2**20 if dtype == np.float32 else 0  # as uint32 is read
    labels = labels.astype(dtype)
    np.testing.assert_array_equal(neuron_mask(tmp_path / "a.npy", labels, gold=True), labels > 0)
    share = (RAMP * 255).round().astype(np.uint8)
    np.testing.assert_array_equal(neuron_mask(tmp_path / "a.npy", share, 0.5, gold=True), RAMP >= 0.5)


@pytest.mark.parametrize("data", [(RAMP * 100).astype(np.uint8), (RAMP * 4095).astype(np.uint16), RAMP * 255, RAMP - 1])
def test_what_is_neither_mask_nor_probability_is_refused_with_the_option(data, tmp_path):
    with pytest.raises(InputError, match=r"many values from .*accepted: a mask of two values.*--threshold") as caught:
        neuron_mask(tmp_path / "a.npy", data)
    assert len(caught.value.lines) == 1
