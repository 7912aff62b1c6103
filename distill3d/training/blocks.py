"""Prediction of a volume by overlapping windows, block by block.

Every window is run once, in the block that it begins in. A block's sums are already divided by the weights of all
windows over a voxel, so that a region is finished by adding what its own and earlier blocks' windows left there: its
pieces. They wait on disk, a quarter or so of one layer of blocks, and memory holds one block and its reach, whatever
the size of the volume. (A rolling slab would need a window's depth of whole slices, and blocks that run all windows
that touch them would run twice as many.) Sums are taken in the order of the blocks, so the result does not depend on
when, in which order, or by whom each was run.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import final

import numpy as np
import torch
from numpy.typing import NDArray

from distill3d.errors import NumbersError
from distill3d.training.background import Background
from distill3d.training.module import DistillModule
from distill3d.training.precision import as_trained
from distill3d.training.windows import Block, Grid, Zyx, importance
from distill3d.volumes.intensity import rescale
from distill3d.volumes.lazy import Blocks
from distill3d.volumes.parts import Box, box_from, box_shape, common, within


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Way:
    """One of the ways whose mean is a prediction: a network, and how it looks at the volume.

    Attributes:
        module: the trained module; used on the device it is on.
        limits: intensities that become 0 and 1; None where they are scaled already.
        flip: axes along which it sees the volume flipped.
        background: windows of which get a probability of 0 without it; None runs all.
    """

    module: DistillModule
    limits: tuple[float, float] | None = None
    flip: tuple[int, ...] = ()
    background: Background | None = None

    @property
    def grid(self) -> Grid:
        """Of its windows."""
        experiment = self.module.experiment
        return Grid(experiment.patches.size_zyx, experiment.inference.overlap, self.flip)


def run_block(
    data: Blocks, block: Block, ways: Sequence[Way], *, on_window: Callable[[int], None] | None = None
) -> NDArray[np.float32]:
    """Run the windows of a block.

    Args:
        data: the volume.
        block: of a plan over its shape and the grids of the ways.
        ways: one or more.
        on_window: called with the number of windows after each forward, and of those that need none.

    Returns:
        What they add to the probability within the block's reach.

    Raises:
        NumbersError: a network predicts what is no number; names the window.
    """
    part = np.asarray(data[block.reach])
    total: NDArray[np.float32] | None = None
    for number, way in enumerate(ways):
        image = part.astype(np.float32, copy=False) if way.limits is None else rescale(part, *way.limits)
        added = _sums(image, data.shape, block, number, way, on_window)
        if added is not None:
            total = added if total is None else np.add(total, added, out=total)
    if total is None:
        return np.zeros(part.shape, np.float32)
    return total if len(ways) == 1 else np.divide(total, np.float32(len(ways)), out=total)


def finish_block(block: Block, pieces: Iterable[tuple[Box, NDArray[np.float32]]]) -> NDArray[np.float32]:
    """Return the probability of a block's region.

    Args:
        block: of a plan.
        pieces: of itself, then of all blocks it needs, in their order, see `piece`; those that are 0 may be left out.
    """
    prob = np.zeros(box_shape(block.region), np.float32)
    for box, added in pieces:
        prob[within(box, block.region)] += added
    return prob


def piece(own: NDArray[np.float32], block: Block, other: Block) -> tuple[Box, NDArray[np.float32]]:
    """Return what a block's windows add to the region of another, and where that lies in the volume."""
    box = common(block.reach, other.region)
    return box, own[within(box, block.reach)]


def receivers(blocks: Sequence[Block]) -> Mapping[int, list[Block]]:
    """Return for each block which need it: itself, and others."""
    return_to = {block.number: [block] for block in blocks}
    for block in blocks:
        for number in block.needs:
            return_to[number].append(block)
    return return_to


def _sums(
    image: NDArray[np.float32],
    shape: Sequence[int],
    block: Block,
    number: int,
    way: Way,
    on_window: Callable[[int], None] | None,
) -> NDArray[np.float32] | None:
    """Return the sum of a way's windows, each by its share of the weights; None where no window was run."""
    sums: NDArray[np.float32] | None = None
    size, starts = way.grid.size, [way.grid.starts(axis, length) for axis, length in enumerate(shape)]
    for corners, windows in _batches(image, block, number, way, on_window):
        probs = _forward(way, windows, corners, shape)
        sums = np.zeros(image.shape, np.float32) if sums is None else sums
        for corner, prob in zip(corners, probs, strict=True):
            inside, here = _places(corner, size, block.reach)
            near = zip(starts, corner, size, strict=True)
            share = _share(size, tuple(tuple(s - low for s in all_ if abs(s - low) < n) for all_, low, n in near))
            sums[here] += (prob * share)[inside]
        if on_window is not None:
            on_window(len(corners))
    return sums


def _batches(
    image: NDArray[np.float32], block: Block, number: int, way: Way, on_window: Callable[[int], None] | None
) -> Iterator[tuple[list[Zyx], NDArray[np.float32]]]:
    """Yield windows to run, as many as the experiment's batch has, with their corners."""

    def wanted() -> Iterator[tuple[Zyx, NDArray[np.float32]]]:
        for corner in block.corners(number):
            window = _cut(image, corner, way.grid.size, block.reach)
            if way.background is None or not way.background.covers(window):
                yield corner, window
            elif on_window is not None:
                on_window(1)

    for batch in _batched(wanted(), way.module.experiment.inference.batch_size):
        yield [corner for corner, _ in batch], np.stack([window for _, window in batch])[:, None]


def _batched(items: Iterator[tuple[Zyx, NDArray[np.float32]]], size: int) -> Iterator[list[tuple[Zyx, NDArray]]]:
    while batch := list(itertools.islice(items, size)):
        yield batch


def _forward(
    way: Way, windows: NDArray[np.float32], corners: Sequence[Zyx], shape: Sequence[int]
) -> NDArray[np.float32]:
    module, flipped = way.module, [axis + 2 for axis in way.flip]
    inputs = torch.from_numpy(windows).to(module.device).flip(flipped)
    with torch.inference_mode(), as_trained(module):
        logits = module(inputs).float()
    if not logits.isfinite().all():
        raise NumbersError(_not_finite(logits.flip(flipped), corners, shape))
    return logits.sigmoid().flip(flipped)[:, 0].cpu().numpy()


def _not_finite(logits: torch.Tensor, corners: Sequence[Zyx], shape: Sequence[int]) -> str:
    """Say in which window a network predicts what is no number."""
    first = int((~logits.isfinite()).flatten(1).any(1).nonzero()[0])
    window = zip(corners[first], logits.shape[2:], shape, strict=True)
    place = ", ".join(f"{max(low, 0)}:{min(low + size, full)}" for low, size, full in window)
    count = int((~logits[first].isfinite()).sum())
    return (
        f"the network predicts NaN or infinity at zyx {place} ({count} of {logits[first].numel()} voxels), so its "
        "weights cannot be used; accepted: a run whose training stayed finite"
    )


@functools.lru_cache(maxsize=8)  # windows of a row overlap others in few ways, and a map is as large as a window
def _share(size: Zyx, near: tuple[tuple[int, ...], ...]) -> NDArray[np.float32]:
    """Return a window's weights divided by those of all windows that overlap it.

    Args:
        size: of a window.
        near: where these begin, along ZYX from the window's corner; itself among them.
    """
    weights, total = importance(size), np.zeros(size, np.float32)
    for z, y, x in itertools.product(*near):
        inside, here = _places((z, y, x), size, box_from((0, n) for n in size))
        total[here] += weights[inside]
    return weights / total


def _cut(image: NDArray[np.float32], corner: Zyx, size: Zyx, reach: Box) -> NDArray[np.float32]:
    """Return a window of a part of a volume; 0 where it stands out."""
    inside, here = _places(corner, size, reach)
    if math.prod(box_shape(here)) == math.prod(size):
        return image[here]
    window = np.zeros(size, np.float32)
    window[inside] = image[here]
    return window


def _places(corner: Zyx, size: Zyx, reach: Box) -> tuple[Box, Box]:
    """Return which part of a window lies in a box, and where in the box that is."""
    window = box_from((low, low + length) for low, length in zip(corner, size, strict=True))
    shared = common(window, reach)
    return within(shared, window), within(shared, reach)
