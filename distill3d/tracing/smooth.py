"""Move the nodes of a skeleton off the voxel grid, so that steps between slices do not count as length."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from distill3d.tracing.graph import Skeleton, follow

_ROUNDING = 1e-9  # of a window: sums of steps are not exact


def smooth(skeleton: Skeleton, window_um: float) -> Skeleton:
    """Replace every node by the mean of the nodes around it on its branch.

    A branch runs between tips and branch points, which stay where they are; near them the window shrinks, so that it
    always reaches equally far to both sides. A centerline on voxels climbs in whole slices; where these are far apart,
    such steps can add half to its length.

    Args:
        skeleton: without cycles.
        window_um: length of the window along the branch, >= 0; 0 moves nothing.
    """
    if not window_um:
        return skeleton
    points = skeleton.points_zyx_um.copy()
    for branch in _branches(skeleton):
        points[branch[1:-1]] = _running_mean(skeleton.points_zyx_um[branch], window_um)[1:-1]
    return Skeleton(points, skeleton.radii_um, skeleton.edges)


def _branches(skeleton: Skeleton) -> Iterator[list[int]]:
    """Yield the nodes of every branch from one end to the other."""
    neighbors = skeleton.neighbors()
    for start in np.flatnonzero((skeleton.degrees != 2) & (skeleton.degrees > 0)).tolist():
        for first in neighbors[start]:
            branch = follow(neighbors, start, first)
            if start < branch[-1]:  # every branch is found from both of its ends
                yield branch


def _running_mean(points: NDArray[np.float64], window_um: float) -> NDArray[np.float64]:
    place = np.concatenate([[0.0], np.cumsum(np.linalg.norm(np.diff(points, axis=0), axis=1))])
    half = np.minimum(window_um / 2, np.minimum(place, place[-1] - place))
    half += _ROUNDING * window_um
    low = np.searchsorted(place, place - half)
    high = np.searchsorted(place, place + half, side="right")
    sums = np.concatenate([np.zeros((1, 3)), np.cumsum(points, axis=0)])
    return (sums[high] - sums[low]) / (high - low)[:, None]
