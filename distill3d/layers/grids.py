"""Grids of cells along an axis, and how values go from one grid to another.

Each value of a feature map stands for a cell, a stretch of voxels. So maps of different resolution, from crops at
different places, are compared at the same places of the volume.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor


def filled_up(volume: Tensor, edges_zyx: Sequence[int]) -> Tensor:
    """Add zeros at the far ends of [..., Z, Y, X] up to multiples of edges.

    >>> filled_up(torch.ones(2, 4, 5, 6), (4, 4, 4)).shape
    torch.Size([2, 4, 8, 8])
    """
    z, y, x = (-size % edge for size, edge in zip(volume.shape[-3:], edges_zyx, strict=True))
    return F.pad(volume, (0, x, 0, y, 0, z)) if z or y or x else volume


@dataclass(frozen=True, slots=True, eq=False)
class Cells:
    """Cells along one axis, ascending: number i covers the voxels ``[starts[i], starts[i] + pitch)``.

    Attributes:
        starts: float64 [N], in voxels; voxel v covers [v, v + 1).
        pitch: voxels per cell, above 0.
    """

    starts: NDArray[np.float64]
    pitch: float

    @classmethod
    def regular(cls, count: int, pitch: float, start: float = 0.0) -> Self:
        """Return ``count`` cells side by side."""
        return cls(start + pitch * np.arange(count, dtype=np.float64), float(pitch))

    @property
    def centers(self) -> NDArray[np.float64]:
        """Middles of the cells, [N]."""
        return self.starts + self.pitch / 2

    def reversed_in(self, length: float) -> Self:
        """Return the same cells as seen from the other end of a box of so many voxels, ascending again."""
        return type(self)((length - self.starts - self.pitch)[::-1], self.pitch)

    def shifted(self, by: float) -> Self:
        """Return the cells moved by so many voxels."""
        return type(self)(self.starts + by, self.pitch)

    def part(self, low: int, high: int) -> Self:
        """Return the cells with numbers ``low`` to ``high - 1``."""
        return type(self)(self.starts[low:high], self.pitch)

    def around(self, target: Cells) -> tuple[int, int]:
        """Return the range of cells with a share in ``target`` (`weights`), and one more at either end."""
        low = int(np.searchsorted(self.centers, target.starts[0], side="right")) - 2
        high = int(np.searchsorted(self.centers, target.starts[-1] + target.pitch)) + 2
        last = len(self.starts)
        return min(max(low, 0), last - 1), max(min(high, last), 1)


def weights(target: Cells, source: Cells) -> NDArray[np.float32]:
    """Return the matrix [target, source] whose rows are the shares of source cells in each target cell.

    A target cell wider than a source cell is the mean over what it overlaps, by length; any other is interpolated
    linearly between the middles of two source cells. Beyond the first and last middle the nearest value holds.

    Args:
        target: cells to fill.
        source: at least one cell with a value.

    Example:
        >>> weights(Cells.regular(2, 2.0), Cells.regular(4, 1.0)).tolist()
        [[0.5, 0.5, 0.0, 0.0], [0.0, 0.0, 0.5, 0.5]]
        >>> weights(Cells.regular(1, 1.0, start=1.0), Cells.regular(2, 2.0)).tolist()
        [[0.75, 0.25]]
    """
    rows = _overlap(target, source) if target.pitch > source.pitch else np.zeros((len(target.starts), 0))
    if target.pitch > source.pitch:
        covered = rows.sum(axis=1, keepdims=True)
        nearest = _linear(target, source)
        return np.where(covered > 0, rows / np.where(covered > 0, covered, 1), nearest).astype(np.float32)
    return _linear(target, source).astype(np.float32)


def _overlap(target: Cells, source: Cells) -> NDArray[np.float64]:
    low = np.maximum(target.starts[:, None], source.starts[None])
    high = np.minimum(target.starts[:, None] + target.pitch, source.starts[None] + source.pitch)
    return np.maximum(high - low, 0)


def _linear(target: Cells, source: Cells) -> NDArray[np.float64]:
    """Interpolate every source cell's unit vector at the target's middles."""
    count = len(source.starts)
    place = np.interp(target.centers, source.centers, np.arange(count, dtype=np.float64))
    low = np.minimum(place.astype(np.int64), max(count - 2, 0))
    share = place - low
    matrix = np.zeros((len(target.starts), count))
    rows = np.arange(len(target.starts))
    matrix[rows, low] = 1 - share
    matrix[rows, np.minimum(low + 1, count - 1)] += share
    return matrix


def resample(maps: Tensor, *, source: Sequence[Cells], target: Sequence[Cells]) -> Tensor:
    """Bring the last axes of a tensor from one grid to another.

    Args:
        maps: [..., *counts of source].
        source: cells of each of the last axes.
        target: likewise, of the result.

    Returns:
        [..., *counts of target], differentiable, in the precision of ``maps``, under autocast too.
    """
    with torch.autocast(maps.device.type, enabled=False):
        for axis, (have, want) in enumerate(zip(source, target, strict=True), start=maps.ndim - len(source)):
            matrix = weights(want, have)
            if matrix.shape[0] == matrix.shape[1] and np.array_equal(matrix, np.eye(len(matrix), dtype=np.float32)):
                continue
            shares = torch.from_numpy(matrix).to(maps)
            maps = (maps.movedim(axis, -1) @ shares.T).movedim(-1, axis)
    return maps
