"""Where trees start and which are kept."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from distill3d.config.trace import TraceConfig
from distill3d.tracing.graph import Skeleton
from distill3d.tracing.rooting import root_trees
from distill3d.volumes.tree import node_depths


def line(n, *, y=0.0, radii=None):
    points = np.stack([np.zeros(n), np.full(n, y), np.arange(n, dtype=float)], axis=1)
    steps = np.stack([np.arange(n - 1), np.arange(1, n)], axis=1)
    return Skeleton(points, np.ones(n) if radii is None else np.asarray(radii, float), steps)


def together(*parts):
    offsets = np.cumsum([0, *(part.n_nodes for part in parts[:-1])])
    return Skeleton(
        np.concatenate([part.points_zyx_um for part in parts]),
        np.concatenate([part.radii_um for part in parts]),
        np.concatenate([part.edges + offset for part, offset in zip(parts, offsets, strict=True)]),
    )


def random_forest(seed, n=30):
    rng = np.random.default_rng(seed)
    parents = [int(rng.integers(-1, i)) if i else -1 for i in range(n)]
    order = rng.permutation(n)
    edges = np.array([[order[i], order[p]] for i, p in enumerate(parents) if p >= 0])
    return Skeleton(rng.normal(size=(n, 3)) * 5, rng.integers(1, 4, n).astype(float), edges)


@given(seed=st.integers(0, 10**6))
@settings(max_examples=60, deadline=None)
def test_nodes_and_edges_stay_and_parents_come_first(seed):
    skeleton = random_forest(seed)
    tree = root_trees(skeleton, TraceConfig(soma_factor=99.0))
    assert (tree.parents < np.arange(tree.n_nodes)).all()
    assert (node_depths(tree.parents) >= 0).all()
    assert len(tree.roots) == skeleton.pieces()[0]

    def pairs(points, edges):
        return sorted(sorted(map(tuple, points[edge].tolist())) for edge in edges)

    assert pairs(tree.points_zyx_um, tree.edges) == pairs(skeleton.points_zyx_um, skeleton.edges)
    lengths, piece = [], np.cumsum(tree.parents < 0) - 1
    for k in range(len(tree.roots)):
        lengths.append(tree.edge_lengths_um[piece[tree.edges[:, 0]] == k].sum())
        assert tree.radii_um[tree.roots[k]] == tree.radii_um[piece == k].max()
    assert (np.diff(lengths) <= 1e-9).all()


def test_the_root_is_the_thickest_node_and_no_soma_below_the_factor():
    tree = root_trees(line(9, radii=[1, 1, 1, 1, 3, 1, 1, 1, 1]), TraceConfig())
    assert tree.points_zyx_um[0].tolist() == [0, 0, 4]
    assert (tree.types == 0).all()
    assert tree.n_nodes == 9


def test_a_soma_has_type_1_and_takes_in_the_nodes_within_its_radius():
    radii = np.ones(21)
    radii[7:14] = [2, 3, 4, 4.5, 4, 3, 2]
    tree = root_trees(line(21, radii=radii), TraceConfig())
    assert tree.points_zyx_um[0].tolist() == [0, 0, 10]
    assert tree.types.tolist() == [1] + [0] * 12
    assert sorted(tree.points_zyx_um[1:, 2]) == [0, 1, 2, 3, 4, 5, 15, 16, 17, 18, 19, 20]
    assert tree.n_children[0] == 2
    assert tree.length_um == 20


def test_a_neurite_that_comes_back_into_the_soma_stays_one_tree():
    """A loop: out of the soma, back to it, and out again."""
    points = np.array([[0.0, 0, 0], [0, 0, 6], [0, 6, 6], [0, 3, 3], [0, 9, 3], [0, 12, 3]])
    skeleton = Skeleton(points, np.array([5.0, 1, 1, 1, 1, 1]), np.array([[0, 1], [1, 2], [2, 3], [3, 4], [4, 5]]))
    tree = root_trees(skeleton, TraceConfig())
    assert tree.n_nodes == 5  # (0, 3, 3) is inside
    assert len(tree.roots) == 1
    assert tree.n_children[0] == 2


def test_another_tree_inside_the_sphere_of_a_soma_is_not_taken_in():
    skeleton = together(line(30, radii=[9] + [1] * 29), line(5, y=2.0))
    tree = root_trees(skeleton, TraceConfig())
    assert len(tree.roots) == 2
    assert tree.types.tolist().count(1) == 1
    assert tree.n_nodes == 1 + 20 + 5


def test_largest_keeps_the_longest_tree_and_seed_the_nearest_rooted_there():
    skeleton = together(line(5), line(9, y=10.0), line(3, y=20.0))
    assert len(root_trees(skeleton, TraceConfig()).roots) == 3
    assert root_trees(skeleton, TraceConfig(trees="largest")).points_zyx_um[:, 1].tolist() == [10.0] * 9
    tree = root_trees(skeleton, TraceConfig(trees="seed", seed_zyx_um=(0.0, 18.0, 2.0)))
    assert tree.points_zyx_um.tolist() == [[0, 20, 2], [0, 20, 1], [0, 20, 0]]
    assert tree.parents.tolist() == [-1, 0, 1]


def test_nothing_gives_an_empty_tree():
    empty = Skeleton(np.empty((0, 3)), np.empty(0), np.empty((0, 2), np.int64))
    for config in (TraceConfig(), TraceConfig(trees="largest"), TraceConfig(trees="seed", seed_zyx_um=(0.0, 0.0, 0.0))):
        assert root_trees(empty, config).n_nodes == 0
