"""Write and read probability volumes, 8 bits a voxel."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from distill3d.volumes.geometry import Grid, Spacing, Stated, grid_in_words
from distill3d.volumes.origin import as_notes, stated_notes
from distill3d.volumes.parts import Parted
from distill3d.volumes.volume import Volume, open_volume, read_volume, write_volume

FULL = 255  # a probability of 1 on disk
CHUNKS = (64, 128, 128)  # voxels that are a file of an OME-Zarr
_HOLDS = "probability"


def write_prob(
    path: Path,
    prob: NDArray[np.floating],
    spacing_um: Spacing,
    *,
    grid: Grid | None = None,
    made_from: str = "",
    made_with: str = "",
) -> None:
    """Write a probability volume as uint8 TIFF, 255 for 1; any viewer opens it, and its header says what it holds.

    Args:
        path: file to write.
        prob: [Z, Y, X] in [0, 1].
        spacing_um: ZYX voxel size.
        grid: how the stack it is a probability of lies in space, None where that is not known.
        made_from: what it came from, see `distill3d.volumes.origin`; empty says nothing.
        made_with: settings that it was made with; likewise.
    """
    volume = Volume(as_stored(prob), spacing_um, Stated(grid=grid))
    write_volume(path, volume, notes=as_notes(holds=_HOLDS, made_from=made_from, made_with=made_with))


def begin_prob(
    path: Path,
    shape_zyx: Sequence[int],
    spacing_um: Spacing,
    *,
    grid: Grid | None = None,
    made_from: str = "",
    made_with: str = "",
) -> None:
    """Make an OME-Zarr of 0 that `written_level` opens to be filled by block; arguments are as for `write_prob`."""
    from distill3d.volumes.zarr_writing import create_zarr  # noqa: PLC0415 - a second of import

    notes = as_notes(**grid_in_words(grid), holds=_HOLDS, made_from=made_from, made_with=made_with)
    create_zarr(path, shape=shape_zyx, dtype=np.uint8, spacing_um=spacing_um, chunks=CHUNKS, notes=notes)


def as_stored(prob: NDArray[np.floating]) -> NDArray[np.uint8]:
    """Return probabilities as they are on disk."""
    return np.round(prob * FULL).astype(np.uint8)


def says_prob(path: Path) -> bool:
    """Whether a file's header says that it holds what `write_prob` writes."""
    return stated_notes(path).get("holds") == _HOLDS


def open_prob(path: Path) -> Parted:
    """Open what `write_prob` or `begin_prob` wrote, as probability in [0, 1] that is read by part."""
    return Parted(_from_stored, open_volume(path).data)


def read_prob(path: Path) -> NDArray[np.float32]:
    """Read what `write_prob` wrote, as probability in [0, 1]."""
    return _from_stored(read_volume(path, allow_blank=True).data)


def _from_stored(data: NDArray[np.number]) -> NDArray[np.float32]:
    return data.astype(np.float32) / np.float32(FULL)
