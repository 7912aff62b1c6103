"""Volumes that stay on disk and are read by block."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, final

import numpy as np

from distill3d.volumes.blocks import StoredBlocks, axes_by_count
from distill3d.volumes.calls import require_seen
from distill3d.volumes.geometry import Spacing, Stated
from distill3d.volumes.origin import origin_of
from distill3d.volumes.stack_files import split_inside, suffix_of


class Blocks(Protocol):
    """A ZYX array of which parts can be read: one of NumPy, or one on disk."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Voxels along ZYX."""
        ...

    @property
    def dtype(self) -> np.dtype[Any]:
        """Of the voxels, as stored."""
        ...

    def __getitem__(self, key: tuple[slice, slice, slice], /) -> Any:  # noqa: ANN401 - zarr, h5py and NumPy type it differently
        """Read a part: an array of NumPy."""
        ...


@final
class OnDisk:
    """Voxels of a stack that is opened again where it is sent to: by another process, which has to see the same file.

    Args:
        blocks: of the stack.
        place: its file and channel.
    """

    def __init__(self, blocks: StoredBlocks, place: tuple[Path, int]) -> None:
        self._blocks, self._place, self.shape, self.dtype = blocks, place, blocks.shape, blocks.dtype

    def __getitem__(self, key: tuple[slice, slice, slice], /) -> np.ndarray:
        return self._blocks[key]

    def __reduce__(self) -> tuple[Callable[..., OnDisk], tuple[Any, ...]]:
        return _opened_again, (*self._place, origin_of(self._place[0]))


def _opened_again(path: Path, channel: int, origin: str) -> OnDisk:
    require_seen(lambda: origin_of(path), origin, path)
    return OnDisk(OPENERS[suffix_of(path)](path, channel)[0], (path, channel))


@final
@dataclass(frozen=True, slots=True, eq=False)
class LazyVolume:
    """A 3D image that is read by block.

    Attributes:
        data: [Z, Y, X], as stored.
        spacing_um: voxel size ZYX in micrometers.
        stated: what its file states of its voxels.
    """

    data: Blocks
    spacing_um: Spacing = (1.0, 1.0, 1.0)
    stated: Stated = Stated()  # noqa: RUF009 - immutable

    @property
    def shape(self) -> tuple[int, int, int]:
        """Voxels along ZYX."""
        z, y, x = self.data.shape
        return z, y, x


def _open_npy(path: Path, channel: int) -> Opened:
    with warnings.catch_warnings(action="ignore"):  # numpy's, of an old or damaged header
        mapped = np.lib.format.open_memmap(path, mode="r")  # which refuses one that claims more than the file has
    return StoredBlocks(path, mapped, axes_by_count(path, mapped.shape), channel=channel), Stated()


def _open_zarr(path: Path, channel: int) -> Opened:
    from distill3d.volumes.ome_zarr import open_ome_zarr  # noqa: PLC0415 - a second of import

    return open_ome_zarr(*split_inside(path), channel=channel)


def _open_n5(path: Path, channel: int) -> Opened:
    from distill3d.volumes.n5 import open_n5  # noqa: PLC0415 - optional

    return open_n5(*split_inside(path), channel=channel)


def _open_hdf5(path: Path, channel: int) -> Opened:
    from distill3d.volumes.hdf5 import open_hdf5  # noqa: PLC0415 - half a second of import

    return open_hdf5(*split_inside(path), channel=channel)


def _open_imaris(path: Path, channel: int) -> Opened:
    from distill3d.volumes.hdf5 import open_imaris  # noqa: PLC0415 - half a second of import

    return open_imaris(path, channel=channel)


Opened = tuple[StoredBlocks, Stated]
OPENERS: dict[str, Callable[[Path, int], Opened]] = {
    ".npy": _open_npy,
    ".h5": _open_hdf5,
    ".hdf5": _open_hdf5,
    ".ims": _open_imaris,
    ".ome.zarr": _open_zarr,
    ".zarr": _open_zarr,
    ".n5": _open_n5,
}
