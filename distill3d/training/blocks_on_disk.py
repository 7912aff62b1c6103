"""Prediction by blocks into an array on disk; what a killed process has done counts for the next one."""

from __future__ import annotations

import os
import shutil
import socket
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol, final

import numpy as np
from numpy.typing import NDArray

from distill3d.training.blocks import Way, finish_block, piece, receivers, run_block
from distill3d.training.windows import Block, Zyx, plan
from distill3d.volumes.lazy import Blocks
from distill3d.volumes.parts import Box, common
from distill3d.volumes.prob import as_stored

_REACH = 48 << 20  # voxels of a block and what its windows cover; it takes some 18 bytes each
_FOLDERS = ("run", "done", "pieces")


class Sink(Protocol):
    """An array of bytes on disk, or in memory, that is written by block."""

    def __setitem__(self, key: Box, value: Any, /) -> None:  # noqa: ANN401 - zarr, h5py and NumPy type it differently
        """Write a part."""
        ...


@final
class Leavings:
    """What blocks leave for each other and for those that come later: their pieces, and marks of what is over.

    A block is marked as run after its pieces are there, and as done after its region is written, so that neither is
    ever made again; what it needed is deleted then. Pieces that are 0 are files without content: one that is missing is
    an error, whichever machine wrote it.

    Args:
        folder: of this prediction alone; made as needed.
    """

    def __init__(self, folder: Path) -> None:
        self._run, self._done, self._pieces = (folder / each for each in _FOLDERS)
        for each in (self._run, self._done, self._pieces):
            each.mkdir(parents=True, exist_ok=True)

    @staticmethod
    def clear(folder: Path) -> None:
        """Forget all that is in a folder."""
        for each in _FOLDERS:
            shutil.rmtree(folder / each, ignore_errors=True)

    def is_run(self, block: Block) -> bool:
        """Whether all windows of a block were run."""
        return (self._run / str(block.number)).is_file()

    def is_done(self, block: Block) -> bool:
        """Whether nothing of a block is left to do."""
        return (self._done / str(block.number)).is_file()

    def keep(self, block: Block, own: NDArray[np.float32], receivers: Sequence[Block]) -> None:
        """Keep what a block adds to itself and others, and note that it was run."""
        for other in receivers:
            _, added = piece(own, block, other)
            path = self._piece(block.number, other)
            part = path.with_name(f".{path.name}.{socket.gethostname()}.{os.getpid()}")
            with part.open("wb") as file:
                if added.any():
                    np.save(file, added, allow_pickle=False)
            part.replace(path)
        (self._run / str(block.number)).touch()

    def pieces(self, block: Block, blocks: Sequence[Block]) -> Iterator[tuple[Box, NDArray[np.float32]]]:
        """Yield what a block and earlier ones add to it, all of which must be kept already."""
        for number in (block.number, *block.needs):
            path = self._piece(number, block)
            if path.stat().st_size:
                yield common(blocks[number].reach, block.region), np.load(path, allow_pickle=False)

    def mark(self, block: Block) -> None:
        """Note that a block is done, and delete what only it needed."""
        (self._done / str(block.number)).touch()
        for number in (block.number, *block.needs):
            self._piece(number, block).unlink(missing_ok=True)

    def _piece(self, number: int, other: Block) -> Path:
        return self._pieces / f"{number}-{other.number}.npy"


@final
class Blockwise:
    """A prediction by blocks: each is run, and finished after it and all it needs were, by whichever process.

    Args:
        data: the volume.
        sink: takes the probability, 255 for 1; each block is written once.
        ways: see `distill3d.training.inference.ways_of`.
        size: ZYX of a block, of whole chunks of the sink.
        leavings: of this prediction.
    """

    def __init__(self, data: Blocks, sink: Sink, ways: Sequence[Way], size: Zyx, leavings: Leavings) -> None:
        self.blocks = plan(data.shape, [way.grid for way in ways], size)
        self.size, self.ways, self.leavings = size, ways, leavings
        self._data, self._sink, self._receivers = data, sink, receivers(self.blocks)
        for way in ways:
            way.module.eval()

    def all(self, on_window: Callable[[int], None] | None = None) -> None:
        """Run and finish all blocks in this process; memory is that of one block, see `block_size`."""
        for block in self.blocks:
            self.run(block.number, on_window=on_window)
            self.finish(block.number)

    def run(self, number: int, *, on_window: Callable[[int], None] | None = None) -> None:
        """Run a block's windows, but if that was done; calls ``on_window`` with the number of windows that are."""
        block = self.blocks[number]
        if not self.leavings.is_run(block):
            own = run_block(self._data, block, self.ways, on_window=on_window)
            self.leavings.keep(block, own, self._receivers[number])
        elif on_window is not None:
            on_window(block.n_windows)

    def finish(self, number: int) -> None:
        """Write a block, but if that was done."""
        block = self.blocks[number]
        if not self.leavings.is_done(block):
            self._sink[block.region] = as_stored(finish_block(block, self.leavings.pieces(block, self.blocks)))
            self.leavings.mark(block)


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
