"""Where the windows of a sliding-window prediction lie, how they are weighted, and the blocks they are run in."""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple, TypeAlias, final

import numpy as np
from numpy.typing import NDArray

from distill3d.volumes.parts import Box, box_from

Zyx: TypeAlias = tuple[int, int, int]

_SIGMA = 0.125  # of the Gaussian weights, in window lengths
_LEAST = 1e-3  # weight


@final
@dataclass(frozen=True, slots=True)
class Grid:
    """A grid of overlapping windows over a volume: the one of MONAI's `sliding_window_inference`.

    Where an axis is shorter than a window, its one window stands out on both sides: it starts below 0.

    Attributes:
        size: of a window.
        overlap: share of a window that its neighbor has too, in [0, 1).
        mirrored: axes along which the grid is that of the flipped volume.
    """

    size: Zyx
    overlap: float
    mirrored: tuple[int, ...] = ()

    def starts(self, axis: int, length: int) -> list[int]:
        """Return where windows begin along an axis, in ascending order.

        >>> grid = Grid((32, 96, 96), 0.25)
        >>> grid.starts(0, 60), grid.starts(1, 90)
        ([0, 24, 28], [-3])
        """
        size = self.size[axis]
        if length <= size:
            starts = [(length - size + 1) // 2]
        else:
            step = max(1, int(size * (1 - self.overlap)))
            starts = [min(n * step, length - size) for n in range(math.ceil((length - size) / step) + 1)]
        return sorted(length - size - start for start in starts) if axis in self.mirrored else starts

    def count(self, shape: Sequence[int]) -> int:
        """Return the number of windows over a volume.

        >>> Grid((32, 96, 96), 0.25).count((60, 512, 512))
        147
        """
        return math.prod(len(self.starts(axis, length)) for axis, length in enumerate(shape))


@functools.lru_cache(maxsize=4)
def importance(size: Zyx) -> NDArray[np.float32]:
    """Return how much a window says of each of its voxels: a Gaussian, and nowhere less than a thousandth."""
    weights = np.ones((1, 1, 1), np.float32)
    for axis, length in enumerate(size):
        steps = np.arange(length, dtype=np.float32) - np.float32((length - 1) / 2)
        bell = np.exp(steps**2 / np.float32(-2 * (_SIGMA * length) ** 2))
        weights = weights * np.expand_dims(bell, [other for other in range(3) if other != axis])
    return np.maximum(weights, np.float32(max(weights.min(), _LEAST)))


@final
@dataclass(frozen=True, slots=True)
class Block:
    """A part of a volume that is written at once, and the windows that are run for it.

    Every window belongs to the block that it begins in, so none is run twice; windows of earlier blocks reach into a
    block from below, never from above.

    Attributes:
        number: in the order z, y, x.
        region: of the volume, that is written.
        reach: the region, and what the block's windows cover beyond it.
        starts: of every grid, where its windows begin along Z, Y and X.
        needs: numbers of the earlier blocks whose windows reach into the region.
    """

    number: int
    region: Box
    reach: Box
    starts: tuple[tuple[tuple[int, ...], ...], ...]
    needs: tuple[int, ...]

    def corners(self, grid: int) -> Iterator[Zyx]:
        """Yield where the windows of a grid begin, in the order z, y, x."""
        return itertools.product(*self.starts[grid])  # pyright: ignore[reportReturnType]

    @property
    def n_windows(self) -> int:
        """Of all grids."""
        return sum(math.prod(map(len, starts)) for starts in self.starts)


def plan(shape: Sequence[int], grids: Sequence[Grid], block: Sequence[int]) -> list[Block]:
    """Cut a volume into blocks.

    Args:
        shape: of the volume, ZYX.
        grids: of the windows that are run over it.
        block: ZYX size of a region; the last of an axis is smaller.

    Returns:
        The blocks in the order z, y, x. They may be run in any order; what a block needs must be there before it is
        finished.
    """
    axes = [_parts(axis, length, grids, size) for axis, (length, size) in enumerate(zip(shape, block, strict=True))]
    counts = [len(parts) for parts in axes]
    blocks: list[Block] = []
    for number, parts in enumerate(itertools.product(*axes)):
        needs = (int(np.ravel_multi_index(place, counts)) for place in itertools.product(*(p.needs for p in parts)))
        blocks.append(
            Block(
                number=number,
                region=box_from((p.start, p.stop) for p in parts),
                reach=box_from((p.start, p.reach) for p in parts),
                starts=tuple(tuple(p.starts[grid] for p in parts) for grid in range(len(grids))),
                needs=tuple(sorted(set(needs) - {number})),
            )
        )
    return blocks


class _Part(NamedTuple):
    """An interval of an axis."""

    start: int
    stop: int
    reach: int
    starts: tuple[tuple[int, ...], ...]
    needs: tuple[int, ...]


def _parts(axis: int, length: int, grids: Sequence[Grid], size: int) -> list[_Part]:
    starts = [grid.starts(axis, length) for grid in grids]
    parts: list[_Part] = []
    for number, low in enumerate(range(0, length, size)):
        high = min(low + size, length)
        own = tuple(tuple(s for s in each if low <= max(s, 0) < high) for each in starts)
        ends = (s + grid.size[axis] for grid, each in zip(grids, own, strict=True) for s in each)
        needs = tuple(index for index, part in enumerate(parts) if part.reach > low)
        parts.append(_Part(low, high, min(max(high, *ends, high), length), own, (*needs, number)))
    return parts
