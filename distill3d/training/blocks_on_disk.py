"""Prediction by blocks into an array on disk; what a killed process has done counts for the next one."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol, final

import numpy as np
from numpy.typing import NDArray

from distill3d.training.blocks import Way, common, finish_block, piece, receivers, run_block
from distill3d.training.windows import Block, Box, Zyx
from distill3d.volumes.lazy import Blocks
from distill3d.volumes.prob import as_stored

_REACH = 48 << 20  # voxels of a block and what its windows cover; it takes some 18 bytes each
_FOLDERS = ("done", "pieces")


class Sink(Protocol):
    """An array of bytes on disk, or in memory, that is written by block."""

    def __setitem__(self, key: Box, value: Any, /) -> None:  # noqa: ANN401 - zarr, h5py and NumPy type it differently
        """Write a part."""
        ...


@final
class Leavings:
    """What blocks leave for those that come later: the pieces of them, and the mark that they are done.

    A block is marked after its pieces and its region are written, so that one that is marked is never run again; what
    it needed is deleted then.

    Args:
        folder: of this prediction alone; made as needed.
    """

    def __init__(self, folder: Path) -> None:
        self._done, self._pieces = (folder / each for each in _FOLDERS)
        for each in (self._done, self._pieces):
            each.mkdir(parents=True, exist_ok=True)

    @staticmethod
    def clear(folder: Path) -> None:
        """Forget all that is in a folder."""
        for each in _FOLDERS:
            shutil.rmtree(folder / each, ignore_errors=True)

    def is_done(self, block: Block) -> bool:
        """Whether nothing of a block is left to do."""
        return self._mark(block).is_file()

    def keep(self, block: Block, own: NDArray[np.float32], others: Sequence[Block]) -> None:
        """Keep what a block adds to others; what is 0 takes no room."""
        for other in others:
            _, added = piece(own, block, other)
            if added.any():
                path = self._piece(block.number, other)
                part = path.with_name(f".{path.name}.{os.getpid()}")
                with part.open("wb") as file:
                    np.save(file, added, allow_pickle=False)
                part.replace(path)

    def pieces(self, block: Block, blocks: Sequence[Block]) -> Iterator[tuple[Box, NDArray[np.float32]]]:
        """Yield what earlier blocks add to one, all of which must be kept already."""
        for number in block.needs:
            path = self._piece(number, block)
            if path.is_file():
                yield common(blocks[number].reach, block.region), np.load(path, allow_pickle=False)

    def mark(self, block: Block) -> None:
        """Note that a block is done, and delete what only it needed."""
        self._mark(block).touch()
        for number in block.needs:
            self._piece(number, block).unlink(missing_ok=True)

    def _mark(self, block: Block) -> Path:
        return self._done / str(block.number)

    def _piece(self, number: int, other: Block) -> Path:
        return self._pieces / f"{number}-{other.number}.npy"


def predict_blocks(
    data: Blocks,
    sink: Sink,
    ways: Sequence[Way],
    blocks: Sequence[Block],
    leavings: Leavings,
    *,
    on_window: Callable[[int], None] | None = None,
) -> None:
    """Predict a volume block after block, but for those that are done.

    Memory: of one block, see `block_size`.

    Args:
        data: the volume.
        sink: takes the probability, 255 for 1; each block is written once.
        ways: see `distill3d.training.inference.ways_of`.
        blocks: a plan over the volume's shape and the grids of the ways.
        leavings: of this prediction.
        on_window: called with the number of windows that are done.
    """
    given = receivers(blocks)
    for way in ways:
        way.module.eval()
    for block in blocks:
        if leavings.is_done(block):
            if on_window is not None:
                on_window(block.n_windows)
            continue
        own = run_block(data, block, ways, on_window=on_window)
        leavings.keep(block, own, given[block.number])
        sink[block.region] = as_stored(finish_block(block, own, leavings.pieces(block, blocks)))
        leavings.mark(block)


def block_size(windows: Sequence[Zyx], chunks: Zyx) -> Zyx:
    """Return a ZYX size of blocks: whole chunks, some four windows long, and small enough for memory.

    >>> block_size([(32, 96, 96)], (64, 128, 128))
    (128, 384, 384)
    """
    largest = np.max(np.asarray(windows), axis=0)
    size = largest
    for times in (4, 3, 2, 1):
        size = -(-times * largest // np.asarray(chunks)) * np.asarray(chunks)
        if np.prod(size + largest) <= _REACH:
            break
    z, y, x = size.tolist()
    return z, y, x
