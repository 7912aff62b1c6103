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


def test_a_mask_that_cannot_be_written_to_is_read(tmp_path):
    np.save(tmp_path / "mask.npy", np.eye(3, dtype=bool)[None])
    mask = np.load(tmp_path / "mask.npy", mmap_mode="r")
    assert label_components(mask)[1] == 1
    assert drop_small(mask, 3).sum() == 3


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
