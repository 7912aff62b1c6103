"""Remove what does not belong to a neuron from its skeleton: spurs and tiny trees."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, final

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import KDTree

from distill3d.tracing.graph import Skeleton, follow

# A longer branch leads somewhere, however near other neurites lie, in longest sides of a voxel and radii of its start.
_LONG_SIDES, _LONG_RADII = 10.0, 2.0


class _Spur(NamedTuple):
    """A way from a tip to the first branch point, which it does not hold."""

    length_um: float
    branch_point: int
    nodes: list[int]


def cut_spurs(
    skeleton: Skeleton,
    *,
    spur_um: float,
    spur_radii: float,
    spur_voxels: float = 0.0,
    spacing_um: Sequence[float] | NDArray[np.float64] = (1.0, 1.0, 1.0),
) -> Skeleton:
    """Remove side branches that are short or do not stick out of the rest.

    A side branch goes from a tip to the first node with three or more edges. It is cut if it is shorter than
    ``spur_um``, or than ``spur_radii`` times the radius at its branch point. If it is shorter than 10 voxels or 2 such
    radii, it is also cut if no node of it lies ``spur_voxels`` outside of the balls (node, radius) that the rest of its
    piece consists of: a twig leads away, a bump of the surface or a second way through the same neurite does not. At
    every branch point the shortest is cut first, and what is left is looked at again, so that one arm of a fork at the
    end of a neurite stays. Pieces without a branch point are left alone.

    Args:
        skeleton: without cycles.
        spur_um: length from branch point to tip, >= 0.
        spur_radii: the same in radii of the branch point, >= 0.
        spur_voxels: how far outside is enough, in voxels along the way from the ball's center, >= 0; 0 cuts none.
        spacing_um: ZYX size of these voxels.
    """
    while True:
        shortest: dict[int, _Spur] = {}
        rest = _Rest(skeleton, spur_voxels, np.asarray(spacing_um))
        for spur in _side_branches(skeleton):
            limit = max(spur_um, spur_radii * skeleton.radii_um[spur.branch_point])
            rival = shortest.get(spur.branch_point, spur)
            if spur.length_um <= rival.length_um and (spur.length_um < limit or not rest.is_left_by(spur)):
                shortest[spur.branch_point] = min(spur, rival)
        if not shortest:
            return skeleton
        keep = np.ones(skeleton.n_nodes, bool)
        for spur in shortest.values():
            keep[spur.nodes] = False
        skeleton = skeleton.keep(keep)


@final
class _Rest:
    """What side branches must stick out of, with what all of them share."""

    def __init__(self, skeleton: Skeleton, spur_voxels: float, spacing_um: NDArray[np.float64]) -> None:
        self.points, self.radii, self.piece = skeleton.points_zyx_um, skeleton.radii_um, skeleton.pieces()[1]
        self.spur_voxels, self.spacing_um = spur_voxels, spacing_um
        self.tree = KDTree(self.points)

    def is_left_by(self, spur: _Spur) -> bool:
        """Return whether a side branch is long, or any node of it far enough outside; most are by their tip."""
        long = max(_LONG_SIDES * self.spacing_um.max(), _LONG_RADII * self.radii[spur.branch_point])
        return spur.length_um >= long or any(self.is_outside(node, spur) for node in spur.nodes)

    def is_outside(self, node: int, spur: _Spur) -> bool:
        """Return whether a node lies far enough outside of every ball but those of its own branch."""
        reach = self.radii.max() + self.spur_voxels * self.spacing_um.max()
        near = np.array(self.tree.query_ball_point(self.points[node], reach), np.int64)
        near = near[(self.piece[near] == self.piece[node]) & ~np.isin(near, spur.nodes)]
        away = self.points[node] - self.points[near]
        distance = np.linalg.norm(away, axis=1)
        outside = np.maximum(distance - self.radii[near], 0)
        return bool((outside * np.linalg.norm(away / self.spacing_um, axis=1) >= self.spur_voxels * distance).all())


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
