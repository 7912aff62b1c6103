"""Open arrays of HDF5 files, and the stacks of Imaris, which are such files."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, final

import h5py
import numpy as np

from distill3d.errors import InputError
from distill3d.volumes.blocks import StoredBlocks, axes_by_count, require_channel
from distill3d.volumes.geometry import Stated, complete_spacing, number_of, um_per_unit, warn_no_unit

_SPACING = "element_size_um"  # ZYX, as Fiji's HDF5 plugin and ilastik write it
_SHOWN = 5


def open_hdf5(path: Path, inside: str, *, channel: int) -> tuple[StoredBlocks, Stated]:
    """Open an array of a file and what its attributes state; four axes without names are channels, z, y, x.

    Args:
        path: the file.
        inside: of an array in it; empty is the only one of three axes.
        channel: from 0.

    Returns:
        The array, and its voxel size from the attribute ``element_size_um``.

    Raises:
        InputError: no HDF5 file, no such array or none that is the only one.
    """
    with _opened(path) as file:
        inside = inside or _only_array(path, file)
        array = _array(path, file, inside)
        name = Path(f"{path}:/{inside}")
        sizes = np.ravel(array.attrs.get(_SPACING, ())).tolist()
        stated = Stated(complete_spacing(name, [number_of(size) for size in sizes]) if len(sizes) == 3 else None)
        axes = _axes(name, array)
        return StoredBlocks(name, _OnDisk(path, array), axes, chunks=array.chunks, channel=channel), stated


def open_imaris(path: Path, *, channel: int) -> tuple[StoredBlocks, Stated]:
    """Open one channel of an Imaris 5.5 file, its finest level, and what it states of its voxels.

    Args:
        path: the file.
        channel: from 0.

    Returns:
        The array without its padding, and the extent of the image divided by its voxels.

    Raises:
        InputError: no such file, several time points, or no such channel.
    """
    with _opened(path) as file:
        if "DataSet/ResolutionLevel 0/TimePoint 0" not in file or "DataSetInfo/Image" not in file:
            raise InputError(f"{path}: no image of Imaris in it; accepted: Imaris 5.5")
        times = "DataSet/ResolutionLevel 0"
        if (count := len(_names(file, times))) > 1:
            raise InputError(f"{path}: {count} time points found; one 3D volume is accepted")
        count = sum(name.startswith("Channel ") for name in _names(file, f"{times}/TimePoint 0"))
        group = f"{times}/TimePoint 0/Channel {require_channel(path, count, channel)}"
        array, about = _array(path, file, f"{group}/Data"), file["DataSetInfo/Image"].attrs
        sizes = _imaris_sizes(file[group].attrs, about, array.shape)
        blocks = StoredBlocks(path, _OnDisk(path, array, sizes), "zyx", chunks=array.chunks)
        return blocks, _imaris_stated(path, about, blocks.shape)


def _imaris_sizes(own: Mapping[str, Any], full: Mapping[str, Any], stored: tuple[int, ...]) -> tuple[int, ...]:
    """Return the voxels ZYX of an image, which is stored in whole chunks: padded."""
    sizes = [_number(own, f"ImageSize{axis}") or _number(full, axis) for axis in "ZYX"]
    return tuple(min(int(size or n), n) for size, n in zip(sizes, stored, strict=True))


def _imaris_stated(path: Path, about: Mapping[str, Any], shape: tuple[int, int, int]) -> Stated:
    ends = [(_number(about, f"ExtMin{i}"), _number(about, f"ExtMax{i}")) for i in (2, 1, 0)]
    sizes = [None if a is None or b is None else (b - a) / n for (a, b), n in zip(ends, shape, strict=True)]
    unit = um_per_unit(_text(about.get("Unit", "um")))
    spacing = complete_spacing(path, [size and size * (unit or 1.0) for size in sizes])
    if unit is None and spacing:
        warn_no_unit(path, spacing, _text(about["Unit"]))
    return Stated(spacing, has_unit=unit is not None)


@final
class _OnDisk:
    """An array of a file that is opened for every read: nothing is left open, and it may go to another process."""

    def __init__(self, path: Path, array: h5py.Dataset, shape: tuple[int, ...] | None = None) -> None:
        self._path, self._inside = path, str(array.name)
        self.shape: tuple[int, ...] = shape or array.shape
        self.dtype: np.dtype[Any] = array.dtype

    def __getitem__(self, key: tuple[Any, ...], /) -> np.ndarray:
        whole = tuple(
            slice(*part.indices(n)) if isinstance(part, slice) else part
            for part, n in zip(key, self.shape, strict=True)
        )
        with h5py.File(self._path, "r", locking=False) as file:
            return _array(self._path, file, self._inside)[whole]


@contextmanager
def _opened(path: Path) -> Iterator[h5py.File]:
    try:
        with h5py.File(path, "r", locking=False) as file:  # which some network file systems do not have
            yield file
    except (InputError, MemoryError):
        raise
    except Exception as error:
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        raise InputError(f"{path}: damaged, truncated or no HDF5 ({reason:.120}); a whole file is expected") from error


def _array(path: Path, file: h5py.File, inside: str) -> h5py.Dataset:
    array = file.get(inside)
    if not isinstance(array, h5py.Dataset):
        raise InputError(f"{path}: no array /{inside} in it; it holds {_listed(_arrays(file))}")
    return array


def _names(file: h5py.File, group: str) -> list[str]:
    node = file[group]
    return list(node) if isinstance(node, h5py.Group) else []


def _arrays(file: h5py.File) -> dict[str, int]:
    """Name -> number of axes, of all arrays of a file."""
    arrays: dict[str, int] = {}

    def note(name: str, node: object) -> None:
        if isinstance(node, h5py.Dataset):
            arrays[name] = node.ndim

    file.visititems(note)
    return arrays


def _only_array(path: Path, file: h5py.File) -> str:
    arrays = _arrays(file)
    stacks = [name for name, n_axes in arrays.items() if n_axes == 3]
    if len(stacks) != 1:
        holds = _listed(dict.fromkeys(stacks, 3) if stacks else arrays)
        raise InputError(f"{path}: holds {holds}; accepted: a file with one 3D array, or {path}:/NAME")
    return stacks[0]


def _listed(arrays: dict[str, int]) -> str:
    shown = ", ".join(f"/{name}" for name in list(arrays)[:_SHOWN])
    more = ", ..." if len(arrays) > _SHOWN else ""
    return f"{len(arrays)} arrays ({shown}{more})" if arrays else "no array"


def _axes(name: Path, array: h5py.Dataset) -> str:
    """Return a letter for each axis: as vigra's axis tags say (ilastik writes them), else by their number."""
    try:
        tags = json.loads(array.attrs.get("axistags", ""))["axes"]
        letters = "".join(str(tag["key"]) for tag in tags)
    except (ValueError, KeyError, TypeError):
        letters = ""
    return letters if len(letters) == array.ndim else axes_by_count(name, array.shape)


def _number(attributes: Mapping[str, Any], name: str) -> float | None:
    return number_of(_text(attributes.get(name)))


def _text(value: object) -> str:
    """Return an attribute of Imaris, which is an array of letters."""
    return value.tobytes().decode("latin-1").strip("\0 ") if isinstance(value, np.ndarray) else str(value)
