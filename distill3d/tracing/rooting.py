"""Give a skeleton its roots: which trees to keep, where they start, what is soma."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array
from scipy.sparse.csgraph import breadth_first_order

from distill3d.config.trace import TraceConfig
from distill3d.tracing.graph import Skeleton
from distill3d.tracing.prune import piece_lengths
from distill3d.volumes.tree import Tree

UNDEFINED, SOMA = 0, 1  # SWC type codes


def root_trees(skeleton: Skeleton, config: TraceConfig) -> Tree:
    """Turn a skeleton without cycles into a tree, parents before children.

    Every piece becomes a tree, the longest first, rooted at its thickest node or, with ``trees=seed``, at the node
    nearest to the seed. A root whose radius is at least ``soma_factor`` times the median over all nodes is a soma: its
    type is 1, and nodes of its tree within its radius become part of it. All other nodes have type 0.

    Args:
        skeleton: without cycles; may be empty.
        config: which trees to keep, the seed, and the soma's factor.
    """
    if not skeleton.n_nodes:
        return Tree.empty()
    root_of, tree_of = _choose_roots(skeleton, config)
    order, parents = _walk_down(skeleton, root_of, tree_of)
    root = root_of[tree_of]  # of every node; only nodes in `order` belong to a tree that is kept
    swallowed = _is_soma(skeleton, root, config.soma_factor) & _within_radius(skeleton, root)
    swallowed[root_of] = False
    parents = np.where((parents >= 0) & swallowed[parents], root, parents)
    order = order[~swallowed[order]]
    new_index = np.full(skeleton.n_nodes + 1, -1)  # the last entry is the parent -1 of a root
    new_index[order] = np.arange(len(order))
    is_soma = _is_soma(skeleton, order, config.soma_factor) & (parents[order] < 0)
    return Tree(
        skeleton.points_zyx_um[order],
        skeleton.radii_um[order],
        new_index[parents[order]],
        np.where(is_soma, SOMA, UNDEFINED),
    )


def _is_soma(skeleton: Skeleton, node: NDArray[np.int64], factor: float) -> NDArray[np.bool_]:
    return skeleton.radii_um[node] >= factor * np.median(skeleton.radii_um)


def _within_radius(skeleton: Skeleton, root: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Mark the nodes that lie in the sphere of their root."""
    gap = np.linalg.norm(skeleton.points_zyx_um - skeleton.points_zyx_um[root], axis=1)
    return gap <= skeleton.radii_um[root]


def _choose_roots(skeleton: Skeleton, config: TraceConfig) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the root of every kept tree, best tree first, and every node's tree; others get the last kept tree."""
    lengths, piece = piece_lengths(skeleton)
    if config.seed_zyx_um is not None:
        nearest = np.argmin(np.linalg.norm(skeleton.points_zyx_um - config.seed_zyx_um, axis=1))
        return np.array([nearest]), np.zeros(skeleton.n_nodes, np.int64)
    by_radius = np.lexsort((-skeleton.radii_um, piece))  # stable: of equals the first node
    thickest = by_radius[np.searchsorted(piece[by_radius], np.arange(len(lengths)))]
    by_length = np.argsort(-lengths, kind="stable")
    if config.trees == "largest":
        return thickest[by_length[:1]], np.zeros(skeleton.n_nodes, np.int64)
    rank = np.empty(len(lengths), np.int64)
    rank[by_length] = np.arange(len(lengths))
    return thickest[by_length], rank[piece]


def _walk_down(
    skeleton: Skeleton, roots: NDArray[np.int64], tree_of: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the nodes below the roots, tree by tree and parents first, and the parent of every node, -1 for none."""
    n = skeleton.n_nodes  # also the number of a node that stands above all roots
    edges = np.concatenate([skeleton.edges, np.stack([np.full(len(roots), n), roots], axis=1)])
    graph = csr_array((np.ones(len(edges)), tuple(edges.T)), shape=(n + 1, n + 1))
    order, parents = breadth_first_order(graph, n, directed=False)
    order = order[1:].astype(np.int64)
    parents = np.where((parents[:n] < 0) | (parents[:n] == n), -1, parents[:n]).astype(np.int64)
    return order[np.argsort(tree_of[order], kind="stable")], parents
