"""Remove what does not belong to a neuron from its skeleton: spurs and tiny trees."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from distill3d.tracing.graph import Skeleton, follow


class _Spur(NamedTuple):
    """A way from a tip to the first branch point, which it does not hold."""

    length_um: float
    branch_point: int
    nodes: list[int]


def cut_spurs(skeleton: Skeleton, *, spur_um: float, spur_radii: float) -> Skeleton:
    """Remove side branches that end near their branch point.

    A side branch goes from a tip to the first node with three or more edges. It is cut if it is shorter than
    ``spur_um``, or than ``spur_radii`` times the radius at its branch point: then it ends inside the neurite it stands
    on. At every branch point the shortest is cut first, and what is left is looked at again, so that one arm of a fork
    at the end of a neurite stays. Pieces without a branch point are left alone.

    Args:
        skeleton: without cycles.
        spur_um: length from branch point to tip, >= 0.
        spur_radii: the same in radii of the branch point, >= 0.
    """
    while True:
        shortest: dict[int, _Spur] = {}
        for spur in _side_branches(skeleton):
            limit = max(spur_um, spur_radii * skeleton.radii_um[spur.branch_point])
            rival = shortest.get(spur.branch_point, spur)
            if spur.length_um < limit and spur.length_um <= rival.length_um:
                shortest[spur.branch_point] = min(spur, rival)
        if not shortest:
            return skeleton
        keep = np.ones(skeleton.n_nodes, bool)
        for spur in shortest.values():
            keep[spur.nodes] = False
        skeleton = skeleton.keep(keep)


def drop_small_trees(skeleton: Skeleton, min_tree_um: float) -> Skeleton:
    """Remove pieces whose edges add up to less than ``min_tree_um``; 0 keeps also single nodes.

    >>> two = Skeleton(np.array([[0.0, 0, 0], [0, 0, 9], [5, 5, 5]]), np.ones(3), np.array([[0, 1]]))
    >>> [drop_small_trees(two, limit).n_nodes for limit in (0, 9, 9.1)]
    [3, 2, 0]
    """
    lengths, piece = piece_lengths(skeleton)
    return skeleton.keep((lengths >= min_tree_um)[piece])


def piece_lengths(skeleton: Skeleton) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Return the length in micrometers of every connected piece, and the number of every node's piece."""
    count, piece = skeleton.pieces()
    lengths = np.bincount(piece[skeleton.edges[:, 0]], skeleton.edge_lengths_um, minlength=count)
    return lengths.astype(np.float64), piece


def _side_branches(skeleton: Skeleton) -> list[_Spur]:
    neighbors, points = skeleton.neighbors(), skeleton.points_zyx_um
    spurs = []
    for tip in np.flatnonzero(skeleton.degrees == 1).tolist():
        branch = follow(neighbors, tip, neighbors[tip][0])
        if len(neighbors[branch[-1]]) > 2:
            steps = np.diff(points[branch], axis=0)
            spurs.append(_Spur(float(np.linalg.norm(steps, axis=1).sum()), branch[-1], branch[:-1]))
    return spurs
