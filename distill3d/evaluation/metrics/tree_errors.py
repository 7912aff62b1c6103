"""Where two trees differ: the pieces whose length ``metrics.tree`` counts, and the stretches they join to."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, final

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from distill3d.evaluation.metrics.tree_distance import SLACK, Segments, length_points, nearest_distances
from distill3d.volumes.tree import Tree


@final
@dataclass(frozen=True, slots=True, eq=False)
class TreePieces:
    """Pieces of at most a voxel that the edges of a tree are cut into, in voxels; the nodes, where it has no edge.

    Attributes:
        segments: the edges, each the length of one or several pieces.
        points_zyx_vox: midpoints, float64 [P, 3].
        halves_zyx_vox: from the midpoint to the end that is nearer to the root, float64 [P, 3].
        lengths_vox: float64 [P].
        joints: int64 [P, 2], numbers of the places at both ends; pieces that share one are connected.
    """

    segments: Segments
    points_zyx_vox: np.ndarray
    halves_zyx_vox: np.ndarray
    lengths_vox: np.ndarray
    joints: np.ndarray


class Stretch(NamedTuple):
    """Connected pieces: their length, the midpoint that is nearest to their mean, and all P midpoints [P, 3]."""

    length_vox: float
    center_zyx_vox: np.ndarray
    points_zyx_vox: np.ndarray


def tree_pieces(tree: Tree, spacing_um: Sequence[float]) -> TreePieces:
    """Cut a tree into the pieces whose length ``metrics.tree.tree_scores`` counts.

    >>> tree = Tree(np.array([[0.0, 0, 0], [0, 0, 3]]), np.ones(2), np.array([-1, 0]), np.ones(2))
    >>> pieces = tree_pieces(tree, (1.0, 1.0, 1.0))
    >>> pieces.points_zyx_vox[:, 2].tolist(), pieces.joints.tolist()
    ([2.5, 1.5, 0.5], [[1, 2], [2, 3], [3, 0]])
    """
    nodes = np.repeat(np.arange(tree.n_nodes)[:, None], 2, axis=1)
    edges, places = tree.edges if len(tree.edges) else nodes, tree.points_zyx_um / np.asarray(spacing_um)
    segments = Segments(places[edges[:, 0]], places[edges[:, 1]])
    counts = np.ceil(segments.lengths).astype(np.int64).clip(min=1)
    points, lengths = length_points(segments, counts)
    halves = np.repeat((segments.end - segments.start) / counts[:, None] / 2, counts, axis=0)
    # Places between two pieces of an edge are numbered behind the nodes.
    joints = tree.n_nodes + np.arange(len(points))[:, None] + np.array([-1, 0])
    last = np.cumsum(counts) - 1
    joints[last - counts + 1, 0], joints[last, 1] = edges.T
    return TreePieces(segments, points, halves, lengths, joints)


def pieces_within(pieces: TreePieces, *, of: TreePieces, tolerance_vox: float) -> NDArray[np.bool_]:
    """Say of every piece if its midpoint lies within the tolerance of the other tree, bool [P]; never if it is empty.

    The length of these pieces, as a share of all, is the precision or recall of ``metrics.tree.tree_scores``.
    """
    if not len(of.points_zyx_vox):
        return np.zeros(len(pieces.points_zyx_vox), bool)
    return nearest_distances(pieces.points_zyx_vox, of.segments) <= tolerance_vox + SLACK


def error_stretches(pieces: TreePieces, wrong: NDArray[np.bool_]) -> list[Stretch]:
    """Join wrong pieces that are neighbors in the tree to stretches, the longest first.

    What has no length counts for nothing in the scores and is left out, unless the tree has no length at all. Trees of
    a forest are not joined where they touch.

    Args:
        pieces: P of them.
        wrong: [P].

    >>> tree = Tree(np.array([[0.0, 0, 0], [0, 0, 9]]), np.ones(2), np.array([-1, 0]), np.ones(2))
    >>> wrong = np.array([True, False, True, True, True, False, False, False, False])
    >>> [(s.length_vox, s.center_zyx_vox.tolist()) for s in error_stretches(tree_pieces(tree, (1, 1, 1)), wrong)]
    [(3.0, [0.0, 0.0, 5.5]), (1.0, [0.0, 0.0, 8.5])]
    """
    members = np.flatnonzero(wrong)
    if not len(members):
        return []
    ends, count = pieces.joints[members], int(pieces.joints.max()) + 1
    links = coo_array((np.ones(len(ends)), (ends[:, 0], ends[:, 1])), shape=(count, count))
    labels = connected_components(links, directed=False)[1][ends[:, 0]]
    order = np.argsort(labels, kind="stable")
    groups = np.split(members[order], np.flatnonzero(np.diff(labels[order])) + 1)
    stretches = [_stretch(pieces.points_zyx_vox[group], pieces.lengths_vox[group]) for group in groups]
    counted = [stretch for stretch in stretches if stretch.length_vox or not pieces.lengths_vox.any()]
    return sorted(counted, key=lambda stretch: -stretch.length_vox)


def _stretch(points: np.ndarray, lengths: np.ndarray) -> Stretch:
    mean = np.average(points, axis=0, weights=lengths if lengths.any() else None)
    return Stretch(float(lengths.sum()), points[np.linalg.norm(points - mean, axis=1).argmin()], points)
