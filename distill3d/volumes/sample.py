"""Parts of a volume that stand for all of it."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import numpy as np

from distill3d.volumes.lazy import Blocks

_SIZE = (16, 64, 64)  # of a part, ZYX


def sample(data: Blocks, count: int) -> np.ndarray:
    """Return parts of a volume, spread evenly over it, one at a random place in each cell of a grid.

    Args:
        data: [Z, Y, X].
        count: of parts, about; a volume that has fewer voxels gives fewer.

    Returns:
        [N, z, y, x], the same whenever it is called.
    """
    rng, size = np.random.default_rng(0), [min(part, length) for part, length in zip(_SIZE, data.shape, strict=True)]
    cells = _cells([length / part for part, length in zip(size, data.shape, strict=True)], count)
    parts: list[np.ndarray] = []
    for cell in itertools.product(*map(range, cells)):
        corner = [
            min(int((index + rng.random()) * length / n), length - part)
            for index, n, length, part in zip(cell, cells, data.shape, size, strict=True)
        ]
        z, y, x = (slice(low, low + part) for low, part in zip(corner, size, strict=True))
        parts.append(np.asarray(data[z, y, x]))
    return np.stack(parts)


def _cells(room: Sequence[float], count: int) -> list[int]:
    """Return how many cells the grid has along each axis, of so many parts that have room there.

    All axes get the same share of their room, but for those where that is less than one cell: these have one.

    >>> _cells([10, 10, 10], 64), _cells([1.25, 625, 625], 2048), _cells([1, 2, 3], 2048)
    ([4, 4, 4], [1, 45, 45], [1, 2, 3])
    """
    share, free = 1.0, [r for r in room if r > 1]
    while free:
        share = min(1.0, (count / math.prod(free)) ** (1 / len(free)))
        left = [r for r in free if r * share >= 1]
        if left == free:
            break
        free = left
    return [max(1, round(r * share)) for r in room]
