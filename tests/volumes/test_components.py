import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from distill3d.volumes.components import drop_small, label_components


@given(seed=st.integers(0, 10**6), share=st.sampled_from([0.0, 0.03, 0.2, 0.5, 0.8, 1.0]), order=st.sampled_from("CF"))
@pytest.mark.parametrize(("neighbors", "rank"), [(26, 3), (6, 1)])
@settings(max_examples=40, deadline=None)
def test_components_are_numbered_as_scipy_does(neighbors, rank, seed, share, order):
    mask = np.asarray(np.random.default_rng(seed).random((7, 8, 9)) < share, order=order)
    expected, number = ndimage.label(mask, structure=ndimage.generate_binary_structure(3, rank))
    labels, count = label_components(mask, neighbors=neighbors)
    np.testing.assert_array_equal(labels, expected)
    assert (count, labels.dtype) == (number, np.int32)


@pytest.mark.parametrize(("neighbors", "rank"), [(26, 3), (6, 1)])
def test_lines_slices_and_tiny_volumes_hold_as_many_pieces_as_they_can(neighbors, rank):
    structure = ndimage.generate_binary_structure(3, rank)
    for shape in [*itertools.product((1, 2, 3, 4, 5, 9), repeat=3), (1, 101, 101), (33, 1, 31)]:
        corners, checkers = np.zeros(shape, bool), np.indices(shape).sum(axis=0) % 2 == 0
        corners[::2, ::2, ::2] = True
        for mask in (corners, checkers, np.ones(shape, bool)):
            expected, number = ndimage.label(mask, structure=structure)
            labels, count = label_components(mask, neighbors=neighbors)
            assert count == number
            np.testing.assert_array_equal(labels, expected)
            sizes = np.bincount(ndimage.label(mask, structure=np.ones((3, 3, 3)))[0].ravel())
            kept = drop_small(mask, 2)
            assert (kept.shape, kept.dtype) == (shape, bool)
            assert kept.sum() == sizes[1:][sizes[1:] >= 2].sum()


def test_a_mask_that_cannot_be_written_to_is_read(tmp_path):
    np.save(tmp_path / "mask.npy", np.stack([np.eye(4, dtype=bool), *np.zeros((4, 4, 4), bool)]))
    mask = np.load(tmp_path / "mask.npy", mmap_mode="r")
    assert label_components(mask)[1] == 1
    assert drop_small(mask, 3).sum() == 4


@given(seed=st.integers(0, 10**6), min_voxels=st.integers(1, 12))
@settings(max_examples=40, deadline=None)
def test_small_pieces_go_as_scipy_counts_them(seed, min_voxels):
    mask = np.random.default_rng(seed).random((9, 10, 11)) < 0.15
    before = mask.copy()
    labels, count = ndimage.label(mask, structure=np.ones((3, 3, 3)))
    expected = np.zeros_like(mask)
    for k in range(1, count + 1):
        expected |= (labels == k) & ((labels == k).sum() >= min_voxels)
    np.testing.assert_array_equal(drop_small(mask, min_voxels), expected)
    np.testing.assert_array_equal(mask, before)
