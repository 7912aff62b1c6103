"""Parts of a mask that do not touch."""

from __future__ import annotations

import math
from typing import Literal

import cc3d
import numpy as np
from numpy.typing import NDArray


def label_components(mask: NDArray[np.bool_], *, neighbors: Literal[6, 26] = 26) -> tuple[NDArray[np.int32], int]:
    """Number the components of a mask.

    Args:
        mask: bool [Z, Y, X].
        neighbors: 26 joins voxels that share a face, an edge or a corner, as the steps of a path do; 6 a face only.

    Returns:
        Numbers [Z, Y, X] from 1, in the order of their first voxels, 0 elsewhere; and how many there are.

    >>> labels, count = label_components(np.array([[[1, 0, 1, 1]]], bool))
    >>> labels.tolist(), count
    ([[[1, 0, 2, 2]]], 2)
    """
    z, y, x = mask.shape
    labels, count = cc3d.connected_components(_taken(mask), connectivity=neighbors, return_N=True, out_dtype=np.uint32)
    return labels.view(np.int32)[:z, :y, :x], int(count)


def drop_small(mask: NDArray[np.bool_], min_voxels: int) -> NDArray[np.bool_]:
    """Return the mask without its pieces (26-connected) of fewer than ``min_voxels`` voxels.

    >>> drop_small(np.array([[[1, 0, 1, 1]]], bool), 2)[0, 0].astype(int).tolist()
    [0, 0, 1, 1]
    """
    z, y, x = mask.shape
    return np.asarray(cc3d.dust(_taken(mask), threshold=min_voxels, connectivity=26))[:z, :y, :x]


def _taken(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Return a mask as cc3d takes it, which refuses memory that is read-only and numbers along the memory.

    It has numbers for about as many components as a quarter of the voxels; a line, a slice or a tiny volume may hold
    more, and gets a plane of nothing on each axis.
    """
    most = math.prod((n + 1) // 2 for n in mask.shape)
    taken = np.pad(mask, [(0, 1)] * 3) if 4 * most >= mask.size else mask
    return np.require(taken, requirements=["C", "W"])
