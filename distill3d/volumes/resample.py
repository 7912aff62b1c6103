"""Brings a volume to other voxels: to which, so that a network sees what it was trained on, and how."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from skimage.transform import resize

from distill3d.volumes.geometry import Spacing

TOLERATED = 1.5  # factor between a voxel's size and those trained on, per axis


def nearest_shape(shape: tuple[int, int, int], own_um: Spacing, trained_um: Sequence[Spacing]) -> tuple[int, int, int]:
    """Return the shape that a volume is resampled to: the least change that makes its voxels tolerable on every axis.

    Args:
        shape: of the volume, ZYX.
        own_um: its voxel size.
        trained_um: those that a network was trained on; all between the smallest and the largest count as trained on.

    >>> nearest_shape((10, 100, 100), (2.0, 0.5, 1.2), [(1.0, 1.0, 1.0), (5.0, 1.0, 1.0)])
    (10, 75, 100)
    >>> nearest_shape((10, 100, 100), (2.0, 0.5, 1.2), [])
    (10, 100, 100)
    """
    if not trained_um:
        return shape
    low, high = np.min(trained_um, axis=0) / TOLERATED, np.max(trained_um, axis=0) * TOLERATED
    wanted = np.clip(own_um, low, high)
    z, y, x = (max(1, round(size * own / new)) for size, own, new in zip(shape, own_um, wanted, strict=True))
    return z, y, x


def resized(data: NDArray[Any], shape: tuple[int, int, int]) -> NDArray[Any]:
    """Bring a volume to another number of voxels over the same space, linearly and without aliasing.

    Returns:
        ``data`` itself where it has the shape, else float32.
    """
    if data.shape == shape:
        return data
    values = data.astype(np.float32, copy=False)
    return np.asarray(resize(values, shape, order=1, mode="edge", anti_aliasing=True, preserve_range=True))
