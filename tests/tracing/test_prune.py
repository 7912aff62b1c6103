"""Spurs, tiny trees and voxel steps."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from distill3d.tracing.graph import Skeleton, break_cycles, follow
from distill3d.tracing.prune import cut_spurs, drop_small_trees
from distill3d.tracing.smooth import smooth


def comb(*teeth, length=100, radius=1.0):
    """A line of 1 um steps along x with a tooth along y at every 10 um, of the given lengths."""
    points = [[0.0, 0, x] for x in range(length + 1)]
    edges = [[x, x + 1] for x in range(length)]
    for i, tooth in enumerate(teeth, start=1):
        before = 10 * i
        for y in range(1, tooth + 1):
            points.append([0, y, 10 * i])
            edges.append([before, len(points) - 1])
            before = len(points) - 1
    return Skeleton(np.array(points), np.full(len(points), radius), np.array(edges))


def random_forest(seed, n=40):
    rng = np.random.default_rng(seed)
    parents = [int(rng.integers(-1, i)) if i else -1 for i in range(n)]
    edges = np.array([[i, p] for i, p in enumerate(parents) if p >= 0])
    return Skeleton(rng.normal(size=(n, 3)) * 5, rng.uniform(0.5, 4, n), edges)


def length_of(skeleton):
    return float(skeleton.edge_lengths_um.sum())


def test_only_side_branches_shorter_than_the_limit_are_cut():
    cut = cut_spurs(comb(2, 4, 5, 6, 20), spur_um=5.0, spur_radii=0.0)
    assert length_of(cut) == 100 + 5 + 6 + 20
    assert (cut.degrees == 3).sum() == 3


def test_no_limit_cuts_nothing():
    skeleton = comb(1, 2, 3)
    assert cut_spurs(skeleton, spur_um=0.0, spur_radii=0.0) is skeleton


def test_a_branch_that_ends_inside_the_neurite_it_stands_on_is_cut():
    skeleton = comb(3, 8, radius=2.0)
    assert length_of(cut_spurs(skeleton, spur_um=0.0, spur_radii=2.0)) == 108
    assert length_of(cut_spurs(skeleton, spur_um=0.0, spur_radii=5.0)) == 100


def test_a_branch_that_sticks_out_by_less_than_the_limit_is_cut():
    """Teeth of 3 and 8 um on a line of radius 2 stick out by 1 and 6 um."""
    for voxels, left in [(1, 111), (1.1, 108), (6, 108), (7, 100)]:
        cut = cut_spurs(comb(3, 8, radius=2.0), spur_um=0.0, spur_radii=0.0, spur_voxels=voxels)
        assert length_of(cut) == left, voxels


def test_voxels_are_counted_along_the_branch():
    """6 um are 6 voxels along y and 2 along z."""
    flat = comb(6, radius=0.1)
    upright = Skeleton(flat.points_zyx_um[:, [1, 0, 2]], flat.radii_um, flat.edges)
    cut = [
        cut_spurs(s, spur_um=0.0, spur_radii=0.0, spur_voxels=3.0, spacing_um=(3.0, 1.0, 1.0)) for s in (flat, upright)
    ]
    assert [length_of(skeleton) for skeleton in cut] == [106, 100]


def bent(*corners):
    """A line of 100 um along x, and a branch from its middle over corners, nodes 1 um apart."""
    line = comb()
    ends = np.array([[0.0, 0, 50], *corners])
    steps = [np.linspace(a, b, round(np.linalg.norm(b - a)) + 1)[1:] for a, b in pairwise(ends)]
    branch = np.concatenate(steps)
    nodes = [50, *range(101, 101 + len(branch))]
    edges = np.concatenate([line.edges, np.stack([nodes[:-1], nodes[1:]], axis=1)])
    points = np.concatenate([line.points_zyx_um, branch])
    return Skeleton(points, np.ones(len(points)), edges)


def test_a_branch_alongside_is_cut_unless_it_is_long_and_one_that_comes_back_from_afar_stays():
    alongside, long, back = ([0, 2, 50], [0, 2, 56]), ([0, 2, 50], [0, 2, 58]), ([0, 5, 50], [0, 5, 52], [0, 3, 52])
    for corners, left in [(alongside, 100), (long, 110), (back, 109)]:
        assert length_of(cut_spurs(bent(*corners), spur_um=0.0, spur_radii=0.0, spur_voxels=3.0)) == left


def test_of_a_fork_at_the_end_the_longer_arm_stays():
    points = [[0.0, 0, x] for x in range(31)] + [[0, 1, 31], [0, 2, 32], [0, -1, 31], [0, -2, 32], [0, -3, 33]]
    edges = [[x, x + 1] for x in range(30)] + [[30, 31], [31, 32], [30, 33], [33, 34], [34, 35]]
    cut = cut_spurs(Skeleton(np.array(points), np.ones(36), np.array(edges)), spur_um=10.0, spur_radii=0.0)
    assert cut.n_nodes == 34
    assert cut.points_zyx_um[-1].tolist() == [0, -3, 33]
    assert (cut.degrees == 1).sum() == 2


def test_a_spur_on_a_spur_goes_first_and_what_remains_is_measured_anew():
    """A tooth of 12 with a side tooth of 3: its end piece of 4 is short, but whole it is long."""
    points = [*comb(12).points_zyx_um.tolist(), [0, 8, 11], [0, 8, 12], [0, 8, 13]]
    at = points.index([0, 8, 10])
    n = len(points)
    edges = [*comb(12).edges.tolist(), [at, n - 3], [n - 3, n - 2], [n - 2, n - 1]]
    cut = cut_spurs(Skeleton(np.array(points), np.ones(n), np.array(edges)), spur_um=10.0, spur_radii=0.0)
    assert length_of(cut) == 112


def test_a_short_piece_without_branch_point_is_no_spur_but_may_be_a_tiny_tree():
    line = comb(length=4)
    assert cut_spurs(line, spur_um=10.0, spur_radii=9.0).n_nodes == 5
    assert drop_small_trees(line, 4.0).n_nodes == 5
    assert drop_small_trees(line, 4.1).n_nodes == 0


def test_a_star_of_short_arms_keeps_its_two_longest():
    arms = [1.0, 2.0, 3.0, 4.0]
    points = np.array([[0.0, 0, 0], [arms[0], 0, 0], [0, arms[1], 0], [0, 0, arms[2]], [0, 0, -arms[3]]])
    star = Skeleton(points, np.ones(5), np.array([[0, k] for k in range(1, 5)]))
    assert length_of(cut_spurs(star, spur_um=10.0, spur_radii=0.0)) == 7


@given(
    seed=st.integers(0, 10**6),
    spur_um=st.floats(0, 20),
    spur_radii=st.floats(0, 3),
    spur_voxels=st.floats(0, 3),
    side=st.floats(0.5, 3),
)
@settings(max_examples=25, deadline=None)
def test_after_cutting_every_side_branch_is_long_and_sticks_out_and_no_piece_is_lost(
    seed, spur_um, spur_radii, spur_voxels, side
):
    skeleton, spacing = random_forest(seed), np.array([side, 1, 1])
    limits = {"spur_um": spur_um, "spur_radii": spur_radii, "spur_voxels": spur_voxels}
    cut = cut_spurs(skeleton, **limits, spacing_um=spacing)
    assert cut.pieces()[0] == skeleton.pieces()[0]
    assert len(cut.edges) == cut.n_nodes - cut.pieces()[0]
    neighbors, points = cut.neighbors(), cut.points_zyx_um
    for tip in np.flatnonzero(cut.degrees == 1):
        branch = follow(neighbors, int(tip), neighbors[tip][0])
        if len(neighbors[branch[-1]]) > 2:
            length, radius = np.linalg.norm(np.diff(points[branch], axis=0), axis=1).sum(), cut.radii_um[branch[-1]]
            assert length >= max(spur_um, spur_radii * radius)
            rest = [q for q in np.flatnonzero(cut.pieces()[1] == cut.pieces()[1][tip]) if q not in branch[:-1]]
            away = points[branch[:-1], None] - points[rest]
            far = np.linalg.norm(away, axis=2)
            out = np.linalg.norm(away / spacing, axis=2) * np.maximum(far - cut.radii_um[rest], 0) / far
            is_long = length >= max(10 * spacing.max(), 2 * radius)
            assert is_long or (out >= spur_voxels - 1e-9).all(axis=1).any()


@given(seed=st.integers(0, 10**6), extra=st.integers(0, 30))
@settings(max_examples=40, deadline=None)
def test_breaking_cycles_leaves_the_cheapest_forest_of_the_same_pieces(seed, extra):
    forest = random_forest(seed)
    rng = np.random.default_rng(seed)
    more = np.sort(rng.integers(0, 40, (extra, 2)), axis=1)
    pairs = np.unique(np.concatenate([np.sort(forest.edges, axis=1), more[more[:, 0] < more[:, 1]]]), axis=0)
    costs = rng.uniform(0.1, 9, len(pairs))
    cut = break_cycles(Skeleton(forest.points_zyx_um, forest.radii_um, pairs), costs)
    group, total = list(range(40)), 0.0  # Kruskal, by hand
    for k in np.argsort(costs):
        a, b = (group[node] for node in pairs[k])
        if a != b:
            group, total = [a if g == b else g for g in group], total + costs[k]
    cost_of = {tuple(pair): cost for pair, cost in zip(pairs.tolist(), costs, strict=True)}
    assert sum(cost_of[tuple(sorted(edge))] for edge in cut.edges.tolist()) == pytest.approx(total)
    assert cut.pieces()[0] == len(set(group))


def test_smoothing_makes_a_staircase_as_long_as_the_ramp_it_stands_for():
    """A ramp of 1 in 5 over slices 3 um apart: its steps make it 1.09 times as long as it is, after smoothing 1.01."""
    x = np.arange(0, 201.0)
    stairs = np.stack([np.floor(x / 15 + 0.5) * 3, 0 * x, x], axis=1)
    ramp = float(np.linalg.norm([x[-1] / 5, x[-1]]))
    skeleton = Skeleton(stairs, np.ones(201), np.stack([np.arange(200), np.arange(1, 201)], axis=1))
    assert length_of(skeleton) / ramp > 1.08
    assert length_of(smooth(skeleton, 20.0)) / ramp == pytest.approx(1, abs=0.01)


def test_smoothing_moves_neither_tips_nor_branch_points_nor_straight_lines():
    skeleton = random_forest(3)
    smoothed = smooth(skeleton, 8.0)
    fixed = skeleton.degrees != 2
    np.testing.assert_array_equal(smoothed.points_zyx_um[fixed], skeleton.points_zyx_um[fixed])
    assert (smoothed.points_zyx_um[~fixed] != skeleton.points_zyx_um[~fixed]).any()
    np.testing.assert_allclose(smooth(comb(20), 9.0).points_zyx_um, comb(20).points_zyx_um, atol=1e-9)


def test_smoothing_over_0_changes_nothing():
    skeleton = random_forest(4)
    np.testing.assert_array_equal(smooth(skeleton, 0.0).points_zyx_um, skeleton.points_zyx_um)


def test_smoothing_is_the_mean_over_the_window():
    points = np.random.default_rng(0).normal(size=(30, 3)) * 0.3
    points[:, 2] += np.arange(30)
    line = Skeleton(points, np.ones(30), np.stack([np.arange(29), np.arange(1, 30)], axis=1))
    place = np.concatenate([[0], np.cumsum(line.edge_lengths_um)])
    for k, point in enumerate(smooth(line, 7.0).points_zyx_um):
        half = min(3.5, place[k], place[-1] - place[k])
        near = np.abs(place - place[k]) <= half + 1e-9
        np.testing.assert_allclose(point, points[near].mean(axis=0), atol=1e-9)
