"""Which gaps are bridged, which are not, and which way a bridge goes."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from shapes import random_mask, tube

from distill3d.config.trace import TraceConfig
from distill3d.tracing import bridge
from distill3d.tracing.bridge import Terrain, bridge_gaps
from distill3d.tracing.graph import Skeleton
from distill3d.tracing.teasar import skeletonize

SHAPE = (21, 31, 81)


def bridged(mask, *, gap_um, prob=None, spacing_um=(1.0, 1.0, 1.0), max_turn_deg=75.0):
    """Return the skeleton before and after."""
    spacing = np.array(spacing_um)
    before = skeletonize(mask, spacing, TraceConfig())
    terrain = Terrain(mask.astype(np.float32) if prob is None else prob, mask, spacing)
    return before, bridge_gaps(before, terrain, gap_um=gap_um, max_turn_deg=max_turn_deg)


def pieces(mask, **options):
    return bridged(mask, **options)[1].pieces()[0]


def test_a_gap_of_5_um_is_bridged_at_6_and_at_5_but_not_at_4():
    mask = tube([[10, 15, 5], [10, 15, 75]], SHAPE)
    mask[:, :, 40:45] = False
    assert {gap: pieces(mask, gap_um=gap) for gap in (0, 4, 4.9, 5, 6)} == {0: 2, 4: 2, 4.9: 2, 5: 1, 6: 1}


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_the_gap_is_measured_in_um_along_every_axis(axis):
    """Voxels of 3 x 1 x 0.5 um; planes are taken out until 6 um are missing."""
    spacing = np.array([3.0, 1.0, 0.5])
    size = np.full(3, 16.0)
    size[axis] = 60.0
    ends = np.stack([size / 2 // spacing * spacing] * 2)
    ends[:, axis] = [6, 54]
    mask = tube(ends, tuple((size / spacing).astype(int) + 1), radius=4.0, spacing_um=spacing)
    gone = np.round(6 / spacing[axis]).astype(int)
    middle = int(30 / spacing[axis])
    mask[tuple(slice(middle, middle + gone) if a == axis else slice(None) for a in range(3))] = False
    assert {gap: pieces(mask, gap_um=gap, spacing_um=spacing) for gap in (5.5, 6.5)} == {5.5: 2, 6.5: 1}


def test_parallel_fibers_are_not_joined_over_less_than_their_distance():
    """Axes 9 um apart, radius 2: four voxels lie between them."""
    mask = tube([[10, 8, 5], [10, 8, 75]], SHAPE) | tube([[10, 17, 5], [10, 17, 75]], SHAPE)
    assert pieces(mask, gap_um=3.5, max_turn_deg=180) == 2
    assert pieces(mask, gap_um=4.5, max_turn_deg=180) == 1


def test_fibers_that_end_side_by_side_are_not_joined_however_long_a_gap_may_be():
    for start in (5, 20):
        mask = tube([[10, 8, 5], [10, 8, 60]], SHAPE) | tube([[10, 17, start], [10, 17, 60]], SHAPE)
        assert pieces(mask, gap_um=20.0) == 2


def test_a_branch_that_stops_short_of_its_trunk_is_joined_to_its_side():
    mask = tube([[10, 5, 5], [10, 5, 75]], SHAPE) | tube([[10, 13, 40], [10, 28, 40]], SHAPE)
    before, after = bridged(mask, gap_um=6.0)
    assert (before.pieces()[0], after.pieces()[0]) == (2, 1)
    assert (after.degrees >= 3).sum() == 1
    added = after.points_zyx_um[before.n_nodes :]
    np.testing.assert_allclose(added[:, [0, 2]], [[10, 40]] * len(added), atol=1.5)


def test_a_bridge_follows_the_likely_way_and_not_the_straight_one():
    """Half way through the gap the probability is 0.4 five voxels to the side, and 0 between."""
    mask = tube([[10, 15, 5], [10, 15, 75]], SHAPE)
    mask[:, :, 36:46] = False
    prob = mask.astype(np.float32)
    detour = tube([[10, 15, 35], [10, 20, 38], [10, 20, 43], [10, 15, 46]], SHAPE, radius=0.0)
    prob[detour] = np.maximum(prob[detour], 0.4)
    before, after = bridged(mask, prob=prob, gap_um=18.0)
    added = after.points_zyx_um[before.n_nodes :].astype(int)
    outside = added[~mask[tuple(added.T)]]
    assert after.pieces()[0] == 1
    assert len(outside) >= 10
    assert detour[tuple(outside.T)].mean() > 0.8


def test_the_likelier_of_two_gaps_is_bridged_and_no_ring_appears():
    """Two facing arcs leave two gaps; one bridge joins them, a second would close a ring."""
    zyx = np.moveaxis(np.mgrid[:9, :61, :61], 0, -1) - [4, 30, 30]
    far = np.linalg.norm(zyx[..., 1:], axis=-1)
    ring = (np.abs(far - 20) <= 2) & (np.abs(zyx[..., 0]) <= 2)
    gap = np.abs(zyx[..., 1]) <= 2  # at x near 10 and at x near 50
    for bright in (-1, 1):
        prob = np.where(ring & gap & (np.sign(zyx[..., 2]) == bright), 0.3, ring & ~gap).astype(np.float32)
        before, after = bridged(ring & ~gap, prob=prob, gap_um=9.0)
        assert (before.pieces()[0], after.pieces()[0]) == (2, 1)
        assert len(after.edges) == after.n_nodes - 1
        added = after.points_zyx_um[before.n_nodes :]
        assert (np.sign(added[:, 2] - 30) == bright).all()


def test_radii_of_a_bridge_go_evenly_from_end_to_end():
    skeleton = Skeleton(np.array([[4.0, 4, 1], [4, 4, 6]]), np.array([1.0, 3.5]), np.empty((0, 2), np.int64))
    mask = np.zeros((9, 9, 9), bool)
    mask[4, 4, [1, 6]] = True
    after = bridge_gaps(skeleton, Terrain(mask.astype(np.float32), mask, np.ones(3)), gap_um=5.0, max_turn_deg=75.0)
    assert after.points_zyx_um[:, 2].tolist() == [1, 6, 2, 3, 4, 5]
    np.testing.assert_allclose(after.radii_um, [1, 3.5, 1.5, 2, 2.5, 3])
    assert after.edges.tolist() == [[0, 2], [2, 3], [3, 4], [4, 5], [5, 1]]


@given(seed=st.integers(0, 10**6), gap_um=st.floats(0, 6), spacing=st.tuples(*[st.floats(0.4, 3.0)] * 3))
@settings(max_examples=40, deadline=None)
def test_bridges_only_join_and_never_close_a_ring(seed, gap_um, spacing):
    mask = random_mask(seed, share=0.03)
    prob = np.random.default_rng(seed + 1).random(mask.shape).astype(np.float32)
    before, after = bridged(mask, prob=prob, gap_um=gap_um, spacing_um=spacing, max_turn_deg=180.0)
    rings = [len(s.edges) - s.n_nodes + s.pieces()[0] for s in (before, after)]
    assert rings[0] == rings[1]
    np.testing.assert_array_equal(after.points_zyx_um[: before.n_nodes], before.points_zyx_um)
    np.testing.assert_array_equal(after.edges[: len(before.edges)], before.edges)
    assert after.pieces()[0] <= before.pieces()[0]
    steps = np.abs(np.diff(after.points_zyx_um[after.edges], axis=1)[:, 0]) / spacing
    np.testing.assert_allclose(steps.max(axis=1), 1, atol=1e-9)  # from voxel to neighboring voxel, everywhere


def test_single_voxels_are_joined_by_brute_force_reach():
    """Two voxels d apart along an axis have d - 1 voxels between them."""
    for d in range(2, 9):
        mask = np.zeros((5, 5, 12), bool)
        mask[2, 2, [1, 1 + d]] = True
        assert pieces(mask, gap_um=4.0) == (1 if d - 1 <= 4 else 2)


def wavy_gap(seed, spacing_um):
    """Two fibers along x, and a likely way between them that winds, in noise."""
    mask = tube([[10, 15, 2], [10, 15, 22]], SHAPE) | tube([[10, 15, 60], [10, 15, 78]], SHAPE)
    prob = np.where(mask, 1.0, 0.1 * np.random.default_rng(seed).random(SHAPE)).astype(np.float32)
    for x in range(22, 61):
        y, z = 15 + round(5 * np.sin(np.pi * (x - 22) / 38)), 10 + round(3 * np.sin(2 * np.pi * (x - 22) / 38))
        prob[z - 1 : z + 2, y - 1 : y + 2, x] = np.maximum(prob[z - 1 : z + 2, y - 1 : y + 2, x], 0.6)
    return bridged(mask, gap_um=60.0 * spacing_um[2], prob=prob, spacing_um=spacing_um)


@pytest.mark.parametrize("spacing_um", [(1.0, 1.0, 1.0), (0.3, 0.1, 0.1)])
@pytest.mark.parametrize("seed", range(3))
def test_a_wide_box_is_searched_in_cells_and_the_way_is_the_same(monkeypatch, seed, spacing_um):
    before, exact = wavy_gap(seed, spacing_um)
    sizes = []
    monkeypatch.setattr(bridge, "_WIDE", 20)
    reach = bridge._reach
    monkeypatch.setattr(bridge, "_reach", lambda cost, *rest: sizes.append((cost > 0).sum()) or reach(cost, *rest))
    _, coarse = wavy_gap(seed, spacing_um)
    assert exact.pieces()[0] == coarse.pieces()[0] == 1
    assert max(sizes) < 0.2 * np.prod(SHAPE)
    way, again = (skeleton.points_zyx_um[before.n_nodes :] for skeleton in (exact, coarse))
    assert len(way) > 30
    np.testing.assert_array_equal(way, again)
