"""What of a tree lies in a volume."""

import numpy as np
import pytest

from distill3d.volumes.tree import REACH_VOX, Tree, validate, within

SHAPE, SPACING = (8, 20, 30), (2.0, 0.5, 1.0)
LOW = -(0.5 + REACH_VOX) * np.array(SPACING)
HIGH = (np.array(SHAPE) - 0.5 + REACH_VOX) * np.array(SPACING)


@pytest.mark.parametrize("seed", range(5))
def test_what_is_kept_is_the_length_inside_and_whole_edges_keep_their_nodes(seed):
    rng = np.random.default_rng(seed)
    n = 60
    parents = np.array([-1, *(rng.integers(node) for node in range(1, n))])
    points = rng.uniform(LOW - 10, HIGH + 10, (n, 3))
    tree = Tree(points, rng.uniform(1, 2, n), parents, rng.integers(1, 5, n), orphans=[0])
    kept = within(tree, SHAPE, SPACING)
    assert (kept.points_zyx_um >= LOW - 1e-9).all()
    assert (kept.points_zyx_um <= HIGH + 1e-9).all()
    validate(kept)
    child, parent = tree.edges.T
    share = (np.arange(20_000) + 0.5) / 20_000
    length = 0.0
    for a, b, long in zip(points[child], points[parent], tree.edge_lengths_um, strict=True):
        along = a + share[:, None] * (b - a)
        length += long * ((along >= LOW) & (along <= HIGH)).all(axis=1).mean()
    assert kept.length_um == pytest.approx(length, rel=1e-3)
    inside = ((points >= LOW) & (points <= HIGH)).all(axis=1)
    assert np.array_equal(kept.points_zyx_um[: inside.sum()], points[inside])
    assert len(kept.orphans) == int(inside[0])


def test_a_tree_inside_is_the_same_and_one_outside_is_empty():
    tree = Tree(np.array([[0.0, 0, 0], [4, 3, 9]]), np.ones(2), np.array([-1, 0]), np.array([1, 3]))
    assert within(tree, SHAPE, SPACING) is tree
    away = Tree(tree.points_zyx_um + 1e4, tree.radii_um, tree.parents, tree.types)
    assert within(away, SHAPE, SPACING).n_nodes == 0
