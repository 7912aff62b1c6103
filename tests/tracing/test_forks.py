"""Tips at the end of the mask, forks of one node, twigs kept and bumps not: traces of shapes whose course is known."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from shapes import tree_of, tube

from distill3d.tracing.forks import merge_forks
from distill3d.tracing.graph import Skeleton
from distill3d.tracing.trace import trace
from distill3d.volumes.raster import rasterize

ONE = (1.0, 1.0, 1.0)
TRUNK = [[12, 20, 10], [12, 20, 70]]


def degrees_of(tree):
    return np.bincount(tree.edges.ravel(), minlength=tree.n_nodes)


def tips_and_forks(tree):
    """Return the number of tips, a root at an end included, and the degrees of the branch points."""
    degrees = degrees_of(tree)
    return int((degrees == 1).sum()), degrees[degrees > 2].tolist()


@pytest.mark.parametrize("spacing", [ONE, (3.0, 1.0, 1.0)])
@pytest.mark.parametrize("way", [(0, 0, 1), (0, 1, 0), (1, 0, 0), (1, 2, 4)])
def test_both_tips_of_a_tube_lie_within_half_a_voxel_of_the_mask_s_ends(spacing, way):
    direction = np.array(way) / np.linalg.norm(way)
    ends = 33.3 + np.array([[-25.0], [25.0]]) * direction
    mask = tube(ends, np.ceil(66 / np.array(spacing)).astype(int), radius=3.0, spacing_um=spacing)
    tree = trace(mask, spacing)
    along = np.argwhere(mask) * spacing @ direction
    of_tips = np.sort(tree.points_zyx_um[degrees_of(tree) == 1] @ direction)
    half = np.abs(direction * spacing).sum() / 2
    np.testing.assert_allclose(of_tips, [along.min(), along.max()], atol=half)


def test_a_y_has_three_tips_and_one_fork_where_its_arms_meet():
    gold = tree_of([[15, 30, 5], [15, 30, 40], [10, 10, 80], [20, 50, 80]], [-1, 0, 1, 1])
    tree = trace(rasterize(gold, (31, 61, 91)), ONE)
    assert tips_and_forks(tree) == (3, [3])
    fork = tree.points_zyx_um[degrees_of(tree) == 3][0]
    assert np.linalg.norm(fork - gold.points_zyx_um[1]) <= 3


def test_a_cross_is_one_fork_with_four_tips():
    for angle in (90, 60):
        turn = np.radians(angle)
        middle, arm = np.array([12, 40, 40]), 30 * np.array([0, np.sin(turn), np.cos(turn)])
        mask = tube([[12, 40, 10], [12, 40, 70]], (25, 81, 81), radius=3.0)
        mask |= tube([middle - arm, middle + arm], mask.shape, radius=3.0)
        assert tips_and_forks(trace(mask, ONE)) == (4, [4])


@pytest.mark.parametrize("radius", [3.0, 4.0])
def test_a_twig_that_sticks_out_by_the_radius_of_its_trunk_is_kept_and_a_bump_is_not(radius):
    trunk = tube(TRUNK, (25, 41, 81), radius=radius)
    twig = tube([[12, 20, 40], [12, 20 + 2 * radius, 40]], trunk.shape, radius=1.0)
    bump = tube([[12, 20 + radius, 40], [12, 20 + radius, 41]], trunk.shape, radius=1.5)
    assert tips_and_forks(trace(trunk | twig, ONE)) == (3, [3])
    assert tips_and_forks(trace(trunk | bump, ONE)) == (2, [])


def chain(gaps, radius):
    """A line along x with a twig of 9 um after each of the gaps."""
    at = np.cumsum(gaps)
    line = [[0.0, 0, x] for x in (0, *at, at[-1] + 9)]
    n = len(line)
    twigs = [[0.0, 9, x] for x in at]
    edges = [[i, i + 1] for i in range(n - 1)] + [[i + 1, n + i] for i in range(len(at))]
    return Skeleton(np.array(line + twigs), np.full(n + len(at), radius), np.array(edges))


def test_forks_nearer_than_the_radius_are_one_and_others_stay():
    assert sorted(merge_forks(chain([9, 2, 4], 3.0)).degrees)[-2:] == [3, 4]
    untouched = chain([9, 4, 4], 3.0)
    np.testing.assert_array_equal(merge_forks(untouched).points_zyx_um, untouched.points_zyx_um)


def test_a_row_of_close_forks_does_not_collapse_into_one():
    """Twigs at 9, 11, 13, 15 um, radius 3: the first takes in the second, the third the fourth."""
    merged = merge_forks(chain([9, 2, 2, 2], 3.0))
    assert merged.points_zyx_um[merged.degrees > 2][:, 2].tolist() == [9, 13]


def test_the_thickest_fork_takes_in_the_others():
    skeleton = chain([9, 2], 1.0)
    skeleton.radii_um[2] = 2.0
    merged = merge_forks(skeleton)
    assert merged.points_zyx_um[merged.degrees == 4].tolist() == [[0, 0, 11]]


@given(seed=st.integers(0, 10**6), radius=st.floats(0.1, 6.0))
@settings(max_examples=30, deadline=None)
def test_merging_keeps_every_piece_makes_no_ring_and_moves_no_node(seed, radius):
    rng = np.random.default_rng(seed)
    parents = [int(rng.integers(-1, i)) if i else -1 for i in range(40)]
    edges = np.array([[i, p] for i, p in enumerate(parents) if p >= 0])
    before = Skeleton(rng.normal(size=(40, 3)) * 5, np.full(40, radius), edges)
    after = merge_forks(before)
    assert after.pieces()[0] == before.pieces()[0]
    assert len(after.edges) == after.n_nodes - after.pieces()[0]
    assert set(map(tuple, after.points_zyx_um)) <= set(map(tuple, before.points_zyx_um))
