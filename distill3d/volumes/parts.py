"""Boxes of a volume that together are all of it, and what is asked of a volume by such parts."""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeAlias, final

import numpy as np
from numpy.typing import NDArray

from distill3d.volumes.lazy import OPENERS, Blocks
from distill3d.volumes.stack_files import suffix_of

Box: TypeAlias = tuple[slice, slice, slice]
PART = (64, 512, 512)  # whole chunks of what is usual; 16 MB of uint8
LARGE = 1 << 26  # voxels from which on a volume that stays on disk is worked on by part


def is_large(shape: Sequence[int]) -> bool:
    """Whether a volume that can be read by part should be, because many arrays of its size are more than there is."""
    return math.prod(shape) > LARGE


def shape_on_disk(path: Path, *, channel: int) -> tuple[int, int, int] | None:
    """Return the shape of a stack of which parts can be read; None of another, and of one that cannot be opened.

    Raises:
        InputError: a suffix that no stack has.
    """
    if (suffix := suffix_of(path)) not in OPENERS:
        return None
    try:
        blocks, _ = OPENERS[suffix](path, channel)
    except Exception:  # noqa: BLE001 - whoever reads it says so
        return None
    return blocks.shape


def box_from(ends: Iterable[tuple[int, int]]) -> Box:
    """Return a box from where it begins and ends along ZYX."""
    z, y, x = (slice(int(low), int(high)) for low, high in ends)
    return z, y, x


def boxes(shape: Sequence[int], size: Sequence[int] = PART, *, shared: int = 0) -> list[Box]:
    """Return boxes that cover a volume, in the order of their first voxels.

    Args:
        shape: voxels along ZYX.
        size: of a box; those at the upper end are smaller.
        shared: planes of the next box that a box takes in as well.

    >>> [box[2] for box in boxes((1, 1, 5), (1, 1, 2))]
    [slice(0, 2, None), slice(2, 4, None), slice(4, 5, None)]
    >>> [box[2] for box in boxes((1, 1, 5), (1, 1, 2), shared=1)]
    [slice(0, 3, None), slice(2, 5, None)]
    """
    starts = [range(0, max(n - shared, 1), step) for n, step in zip(shape, size, strict=True)]
    return [
        box_from((low, min(low + step + shared, n)) for low, step, n in zip(corner, size, shape, strict=True))
        for corner in itertools.product(*starts)
    ]


def grown(box: Box, by: int | Sequence[int], shape: Sequence[int]) -> Box:
    """Return a box with so many voxels more to every side, as far as the volume reaches."""
    margins = [by] * 3 if isinstance(by, int) else by
    return box_from(
        (max(part.start - margin, 0), min(part.stop + margin, n))
        for part, margin, n in zip(box, margins, shape, strict=True)
    )


def within(box: Box, outer: Box) -> Box:
    """Return where a box lies in one that holds it."""
    return box_from((a.start - b.start, a.stop - b.start) for a, b in zip(box, outer, strict=True))


def common(one: Box, other: Box) -> Box:
    """Return where two boxes overlap."""
    return box_from((max(a.start, b.start), min(a.stop, b.stop)) for a, b in zip(one, other, strict=True))


def box_around(points: NDArray[np.integer]) -> Box:
    """Return the smallest box that holds voxels, int [N, 3], of which there is one."""
    return box_from(zip(points.min(axis=0).tolist(), (points.max(axis=0) + 1).tolist(), strict=True))


def box_shape(box: Box) -> tuple[int, int, int]:
    """Return the voxels of a box along ZYX."""
    z, y, x = (part.stop - part.start for part in box)
    return z, y, x


def gather(data: Blocks, voxels: NDArray[np.integer], size: int = 128) -> NDArray[Any]:
    """Return the values at voxels, int [N, 3], each part of the volume read once."""
    values = np.empty(len(voxels), data.dtype)
    if not len(voxels):
        return values
    cells, cell_of = np.unique(voxels // size, axis=0, return_inverse=True)
    order = np.argsort(cell_of.ravel(), kind="stable")
    for chosen in np.split(order, np.cumsum(np.bincount(cell_of.ravel(), minlength=len(cells)))[:-1]):
        box = box_around(voxels[chosen])
        values[chosen] = data[box][tuple((voxels[chosen] - [part.start for part in box]).T)]
    return values


def extremes(data: Blocks) -> tuple[float, float]:
    """Return the lowest and the highest value; NaN where there is one."""
    ends = [(part.min(), part.max()) for part in parts_of(data)]
    return float(np.min([low for low, _ in ends])), float(np.max([high for _, high in ends]))


def parts_of(data: Blocks) -> Iterator[NDArray[Any]]:
    """Yield the parts of a volume one after the other."""
    return (np.asarray(data[box]) for box in boxes(data.shape))


@final
class Parted:
    """A volume that a rule makes of others, voxel by voxel, as it is read by part.

    Args:
        rule: takes parts of the volumes, and returns one of the same shape.
        volumes: one or more of one shape.
    """

    def __init__(self, rule: Callable[..., NDArray[Any]], *volumes: Blocks) -> None:
        self._rule, self._volumes = rule, volumes
        self.shape = volumes[0].shape
        self.dtype = rule(*(np.empty((0, 0, 0), volume.dtype) for volume in volumes)).dtype

    def __getitem__(self, box: Box) -> NDArray[Any]:
        return self._rule(*(np.asarray(volume[box]) for volume in self._volumes))

    def max(self, axis: int) -> NDArray[Any]:
        """Return the maximum projection along an axis; the volume is read once for all three."""
        return self._maxima[axis]

    @functools.cached_property
    def _maxima(self) -> list[NDArray[Any]]:
        flats = [np.empty([*self.shape[:axis], *self.shape[axis + 1 :]], self.dtype) for axis in range(3)]
        for box in boxes(self.shape):
            part = self[box]
            for axis, flat in enumerate(flats):
                own, place = part.max(axis=axis), (*box[:axis], *box[axis + 1 :])
                flat[place] = own if box[axis].start == 0 else np.maximum(flat[place], own)
        return flats


def computed(rule: Callable[..., NDArray[Any]], *volumes: Blocks) -> NDArray[Any] | Parted:
    """Return what a rule makes of volumes: now where all are in memory, else as it is read; see `Parted`."""
    in_memory = all(isinstance(volume, np.ndarray) for volume in volumes)
    return rule(*volumes) if in_memory else Parted(rule, *volumes)
