import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import binary_erosion

from distill3d.evaluation.metrics import surface
from distill3d.evaluation.metrics.surface import distances_to, padded, surface_distances, surface_voxels

SHARES = st.sampled_from([0.003, 0.05, 0.4])
SPACINGS = st.sampled_from([(1.0, 1.0, 1.0), (3.03, 0.7, 1.1), (0.2, 5.0, 1.0)])


def mask(seed: int, share: float) -> np.ndarray:
    points = np.random.default_rng(seed).random((8, 13, 17)) < share
    points[4, 6, 8] = True
    return points


@given(seed=st.integers(0, 10**6), share=SHARES, spacing=SPACINGS, tree_share=st.sampled_from([0.0, 1.0]))
@settings(max_examples=60, deadline=None)
def test_distances_are_those_of_all_pairs(seed, share, spacing, tree_share):
    points, target = mask(seed, share), mask(seed + 1, share / 2)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(surface, "_TREE_SHARE", tree_share)
        measured = distances_to(padded(target), np.flatnonzero(padded(points)), spacing=spacing)
    gaps = (np.argwhere(points)[:, None] - np.argwhere(target)[None]) * np.array(spacing)
    np.testing.assert_allclose(measured, np.linalg.norm(gaps, axis=2).min(axis=1), rtol=0, atol=1e-9)


@given(seed=st.integers(0, 10**6), limit=st.sampled_from([0.0, 1.0, 2.5, 3.0, 4.0, 9.0]))
@settings(max_examples=40, deadline=None)
def test_a_limit_changes_no_distance_up_to_it(seed, limit):
    points, target = np.flatnonzero(padded(mask(seed, 0.05))), padded(mask(seed + 1, 0.01))
    free = distances_to(target, points, spacing=(1, 1, 1))
    limited = distances_to(target, points, spacing=(1, 1, 1), limit=limit)
    np.testing.assert_array_equal(limited[free <= limit], free[free <= limit])
    assert (limited[free > limit] > limit).all()


@given(seed=st.integers(0, 10**6), share=st.sampled_from([0.1, 0.5, 0.9, 1.0]))
@settings(max_examples=40, deadline=None)
def test_the_surface_is_what_an_erosion_takes_away(seed, share):
    solid = mask(seed, share)
    expected = padded(solid & ~binary_erosion(solid))
    np.testing.assert_array_equal(surface_voxels(padded(solid)), np.flatnonzero(expected))


def test_both_directions_come_in_the_order_of_their_names():
    short, long = np.zeros((1, 1, 30), bool), np.zeros((1, 1, 30), bool)
    short[..., 5], long[..., 5:25] = True, True
    from_pred, from_gold = surface_distances(pred=padded(short), gold=padded(long), spacing=(1, 1, 1))
    assert from_pred.tolist() == [0.0]
    assert from_gold.tolist() == list(range(20))
