"""Make every fork one node."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from distill3d.tracing.graph import Skeleton


def merge_forks(skeleton: Skeleton) -> Skeleton:
    """Let every branch point take in what lies within its radius, so that branches part at one node.

    Where a neurite forks, TEASAR's paths leave each other anywhere inside of it, and a crossing becomes two forks some
    voxels apart. The thickest branch point comes first; what it has taken in takes in nothing itself, so that a row of
    forks does not collapse into one. Only nodes that a way within the ball joins to its center count.

    Args:
        skeleton: without cycles.

    >>> points = np.array([[0.0, 0, x] for x in (0, 4, 5, 9)] + [[0, 4, 4], [0, -4, 5]])
    >>> cross = Skeleton(points, np.full(6, 2.0), np.array([[0, 1], [1, 2], [2, 3], [1, 4], [2, 5]]))
    >>> cross.degrees.tolist(), merge_forks(cross).degrees.tolist()
    ([1, 3, 3, 1, 1, 1], [1, 4, 1, 1, 1])
    """
    center = _centers(skeleton)
    kept = center == np.arange(skeleton.n_nodes)
    edges = center[skeleton.edges]
    edges = edges[edges[:, 0] != edges[:, 1]]
    return Skeleton(skeleton.points_zyx_um, skeleton.radii_um, edges).keep(kept)


def _centers(skeleton: Skeleton) -> NDArray[np.int64]:
    """Return the node that every node becomes part of, for most the node itself."""
    points, radii, neighbors = skeleton.points_zyx_um, skeleton.radii_um, skeleton.neighbors()
    center = np.arange(skeleton.n_nodes)
    forks = np.flatnonzero(skeleton.degrees > 2)
    taken = np.zeros(skeleton.n_nodes, bool)
    for fork in forks[np.argsort(-radii[forks], kind="stable")].tolist():
        ahead = [] if taken[fork] else [fork]
        while ahead:
            node = ahead.pop()
            taken[node], center[node] = True, fork
            ahead += [
                other
                for other in neighbors[node]
                if not taken[other] and np.linalg.norm(points[other] - points[fork]) <= radii[fork]
            ]
    return center
