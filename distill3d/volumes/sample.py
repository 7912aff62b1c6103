"""Parts of a volume that stand for all of it."""

from __future__ import annotations

import itertools

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
    room = [length / part for part, length in zip(size, data.shape, strict=True)]
    share = min(1.0, (count / np.prod(room)) ** (1 / sum(r > 1 for r in room) if max(room) > 1 else 1))
    cells = [max(1, round(r * share)) for r in room]
    parts: list[np.ndarray] = []
    for cell in itertools.product(*map(range, cells)):
        corner = [
            min(int((index + rng.random()) * length / n), length - part)
            for index, n, length, part in zip(cell, cells, data.shape, size, strict=True)
        ]
        z, y, x = (slice(low, low + part) for low, part in zip(corner, size, strict=True))
        parts.append(np.asarray(data[z, y, x]))
    return np.stack(parts)
