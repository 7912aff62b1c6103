"""Pieces and stretches of error: what they count is what the scores count."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from distill3d.evaluation.metrics.tree import tree_scores
from distill3d.evaluation.metrics.tree_errors import error_stretches, pieces_within, tree_pieces
from distill3d.volumes.tree import Tree

ONE = (1.0, 1.0, 1.0)


def make(points_zyx, parents) -> Tree:
    n = len(parents)
    return Tree(np.array(points_zyx, float).reshape(n, 3), np.ones(n), np.array(parents, np.int64), np.full(n, 3))


@st.composite
def forests(draw, least=1):
    """Random forests on a coarse grid, so that edges without length and nodes at one place are common."""
    n = draw(st.integers(least, 12))
    points = [[draw(st.integers(-3, 3)) * 1.5 for _ in range(3)] for _ in range(n)]
    return make(points, [draw(st.integers(-1, i - 1)) for i in range(n)])


def bad_share(tree, wrong):
    """Share of length that is wrong; nodes count where there is no length."""
    weights = tree.lengths_vox if tree.lengths_vox.any() else np.ones(len(wrong))
    return weights[wrong].sum() / weights.sum()


@given(forests(), forests(), st.sampled_from([ONE, (3.0, 1.0, 0.5)]), st.sampled_from([0.0, 1.0, 4.0]))
@settings(max_examples=150, deadline=None)
def test_wrong_length_is_one_minus_precision_and_recall(pred, gold, spacing, tolerance):
    scores = tree_scores(pred=pred, gold=gold, spacing_um=spacing, tolerance=tolerance)
    of_pred, of_gold = tree_pieces(pred, spacing), tree_pieces(gold, spacing)
    spurious = ~pieces_within(of_pred, of=of_gold, tolerance_vox=tolerance)
    missed = ~pieces_within(of_gold, of=of_pred, tolerance_vox=tolerance)
    assert bad_share(of_pred, spurious) == pytest.approx(1 - scores.precision, abs=1e-9)
    assert bad_share(of_gold, missed) == pytest.approx(1 - scores.recall, abs=1e-9)
    assert of_gold.lengths_vox.sum() == pytest.approx(scores.length_gold)


@given(forests())
@settings(max_examples=50, deadline=None)
def test_pieces_are_short_and_meet_where_they_share_a_joint(tree):
    pieces = tree_pieces(tree, ONE)
    assert pieces.lengths_vox.max() <= 1 + 1e-9
    np.testing.assert_allclose(2 * np.linalg.norm(pieces.halves_zyx_vox, axis=1), pieces.lengths_vox, atol=1e-9)
    places = {}
    for points, joints in (
        (pieces.points_zyx_vox - pieces.halves_zyx_vox, pieces.joints[:, 0]),
        (pieces.points_zyx_vox + pieces.halves_zyx_vox, pieces.joints[:, 1]),
    ):
        for point, joint in zip(points, joints, strict=True):
            np.testing.assert_allclose(places.setdefault(joint, point), point, atol=1e-9)
    for node, point in enumerate(tree.points_zyx_um):
        np.testing.assert_allclose(places.get(node, point), point, atol=1e-9)


def slow_stretches(tree, wrong):
    """Cut every edge by hand; flood over pieces that follow each other on an edge or end at one node."""
    ends, lengths = [], []
    for child, parent in tree.edges.tolist() or [(node, node) for node in range(tree.n_nodes)]:
        length = np.linalg.norm(tree.points_zyx_um[child] - tree.points_zyx_um[parent])
        n = max(int(np.ceil(length)), 1)
        cuts = [("node", child), *((child, k) for k in range(1, n)), ("node", parent)]
        ends += [{cuts[k], cuts[k + 1]} for k in range(n)]
        lengths += [length / n] * n
    left, measured = {i for i, bad in enumerate(wrong) if bad}, []
    while left:
        group = [left.pop()]
        for piece in group:
            near = [i for i in left if ends[i] & ends[piece]]
            left -= set(near)
            group += near
        measured.append((round(sum(lengths[i] for i in group), 6), len(group)))
    return sorted(pair for pair in measured if pair[0] or not any(lengths))


@given(forests(), st.randoms(use_true_random=False))
@settings(max_examples=150, deadline=None)
def test_stretches_are_those_of_a_slow_flood(tree, random):
    pieces = tree_pieces(tree, ONE)
    wrong = np.array([random.random() < 0.7 for _ in pieces.lengths_vox])
    stretches = error_stretches(pieces, wrong)
    measured = sorted((round(stretch.length_vox, 6), len(stretch.points_zyx_vox)) for stretch in stretches)
    np.testing.assert_allclose(measured, slow_stretches(tree, wrong), atol=2e-6)
    lengths = [stretch.length_vox for stretch in stretches]
    assert lengths == sorted(lengths, reverse=True)
    for stretch in stretches:
        assert (stretch.points_zyx_vox == stretch.center_zyx_vox).all(axis=1).any()


def forked():
    """A trunk along x with branches of 20 and 9 voxels along y that leave it at x = 10 and x = 30."""
    points = [(0, 0, 0), (0, 0, 10), (0, 0, 30), (0, 0, 40), (0, 20, 10), (0, 9, 30)]
    return make(points, [-1, 0, 1, 2, 1, 2])


def test_two_branches_that_are_missed_are_two_stretches_and_the_longer_comes_first():
    gold = tree_pieces(forked(), ONE)
    trunk = tree_pieces(make([(0, 0, 0), (0, 0, 40)], [-1, 0]), ONE)
    long, short = error_stretches(gold, ~pieces_within(gold, of=trunk, tolerance_vox=4))
    assert (long.length_vox, short.length_vox) == (16, 5)  # the first 4 voxels of a branch are near the trunk
    assert long.points_zyx_vox[:, 1].min() == 4.5
    assert long.center_zyx_vox[2] == 10
    assert abs(long.center_zyx_vox[1] - 12) <= 0.5


def test_missed_pieces_join_through_a_branch_point_and_not_through_a_found_piece():
    gold = tree_pieces(forked(), ONE)
    wrong = np.ones(len(gold.lengths_vox), bool)
    assert [stretch.length_vox for stretch in error_stretches(gold, wrong)] == [69]
    on_trunk = (gold.points_zyx_vox[:, 1] == 0) & (np.abs(gold.points_zyx_vox[:, 2] - 20) < 1)
    assert on_trunk.sum() == 2
    lengths = [stretch.length_vox for stretch in error_stretches(gold, wrong & ~on_trunk)]
    assert lengths == [39, 28]


def test_an_edge_without_length_is_no_stretch_of_its_own():
    pieces = tree_pieces(make([(0, 0, 0), (0, 0, 0), (0, 0, 2)], [-1, 0, 1]), ONE)
    assert error_stretches(pieces, pieces.lengths_vox == 0) == []
    assert [stretch.length_vox for stretch in error_stretches(pieces, np.ones(3, bool))] == [2]


def test_nodes_without_edges_are_stretches_of_no_length():
    pieces = tree_pieces(make([(0, 0, 0), (5, 5, 5)], [-1, -1]), ONE)
    stretches = error_stretches(pieces, np.array([False, True]))
    assert [stretch.length_vox for stretch in stretches] == [0]
    assert stretches[0].center_zyx_vox.tolist() == [5, 5, 5]


def test_an_empty_tree_has_no_piece_and_is_near_nothing():
    empty, tree = tree_pieces(make([], []), ONE), tree_pieces(forked(), ONE)
    assert not pieces_within(tree, of=empty, tolerance_vox=1e6).any()
    nothing = pieces_within(empty, of=tree, tolerance_vox=4)
    assert len(nothing) == len(pieces_within(empty, of=empty, tolerance_vox=4)) == 0
    assert error_stretches(empty, nothing) == []


def test_nothing_wrong_is_no_stretch():
    pieces = tree_pieces(forked(), ONE)
    assert error_stretches(pieces, np.zeros(len(pieces.lengths_vox), bool)) == []
