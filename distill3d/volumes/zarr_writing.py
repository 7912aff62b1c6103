"""Write OME-Zarr images: block by block, each chunk whole or not at all, and coarser levels after that."""

from __future__ import annotations

import itertools
import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from numpy.typing import DTypeLike

from distill3d.errors import InputError
from distill3d.volumes.geometry import Spacing

CHUNKS = (64, 128, 128)
_COARSEST = 128  # voxels along the longest edge of a level that needs none below
_MARKS = (".zgroup", ".zarray", "zarr.json")


def create_zarr(
    path: Path,
    *,
    shape: Sequence[int],
    dtype: DTypeLike,
    spacing_um: Spacing,
    chunks: Sequence[int] = CHUNKS,
    notes: Mapping[str, str] | None = None,
) -> zarr.Array:
    """Make an OME-Zarr 0.4 of one level, all 0, to be filled by block; its folder appears with all its metadata.

    Args:
        path: folder to make; what is in its place is replaced, if it is a Zarr.
        shape: voxels along ZYX.
        dtype: of a voxel.
        spacing_um: ZYX.
        chunks: voxels along ZYX that are one file. Several processes may write blocks of whole chunks at once; chunks
            that are all 0 have no file.
        notes: for its attributes, see `distill3d.volumes.origin`.

    Returns:
        The level, [Z, Y, X]; `written_level` opens it again.

    Raises:
        InputError: something else lies at the path.
    """
    partial = _partial(path)
    try:
        group = zarr.create_group(partial, zarr_format=2, attributes=dict(notes or {}))
        _create_level(group, 0, shape, dtype, chunks)
        _state(group, [_dataset(0, spacing_um, (0.0, 0.0, 0.0))])
        _put(partial, path)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return written_level(path)


def written_level(path: Path) -> zarr.Array:
    """Open the finest level of what `create_zarr` made, to write to it.

    Raises:
        InputError: there is none.
    """
    try:
        array = zarr.open_group(path, mode="r+").get("0")
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: no OME-Zarr to write to ({error!s:.80}); accepted: what was begun here") from error
    if not isinstance(array, zarr.Array):
        raise InputError(f"{path}: no level to write to; accepted: what was begun here")
    return array


def write_zarr(path: Path, data: np.ndarray, spacing_um: Spacing, notes: Mapping[str, str] | None = None) -> None:
    """Write [Z, Y, X] with coarser levels; the folder appears whole or not at all.

    Raises:
        InputError: something else lies at the path.
    """
    partial = _partial(path)
    try:
        level = create_zarr(partial, shape=data.shape, dtype=data.dtype, spacing_um=spacing_um, notes=notes)
        level[:] = data
        add_levels(partial)
        _put(partial, path)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def add_levels(path: Path) -> None:
    """Add coarser levels to what `create_zarr` made, each the mean of 2 x 2 x 2 voxels of the one before.

    The longest edge of the last one is at most 128 voxels. A chunk and the eight it is made of are in memory. Levels
    that were added before are made anew.
    """
    group = zarr.open_group(path, mode="r+")
    attributes: Any = group.attrs.asdict()
    levels, datasets = [written_level(path)], attributes["multiscales"][0]["datasets"][:1]
    spacing = np.array(datasets[0]["coordinateTransformations"][0]["scale"])
    factors = np.ones(3)
    while max(levels[-1].shape) > _COARSEST:
        fine = levels[-1]
        shape = [-(-n // 2) for n in fine.shape]
        levels.append(_create_level(group, len(levels), shape, fine.dtype, fine.chunks))
        _pool(fine, levels[-1])
        factors *= np.where(np.array(fine.shape) > 1, 2, 1)
        datasets.append(_dataset(len(datasets), factors * spacing, (factors - 1) / 2 * spacing))
    _state(group, datasets)


def _create_level(
    group: zarr.Group, level: int, shape: Sequence[int], dtype: DTypeLike, chunks: Sequence[int]
) -> zarr.Array:
    return group.create_array(
        str(level),
        shape=tuple(shape),
        dtype=np.dtype(dtype),
        chunks=tuple(min(chunk, n) for chunk, n in zip(chunks, shape, strict=True)),
        chunk_key_encoding={"name": "v2", "separator": "/"},
        overwrite=True,
    )


def _dataset(level: int, scale: Sequence[float] | np.ndarray, translation: Sequence[float] | np.ndarray) -> Any:  # noqa: ANN401 - JSON
    steps = [("scale", scale), ("translation", translation)]
    shown = [{"type": kind, kind: [float(number) for number in numbers]} for kind, numbers in steps]
    return {"path": str(level), "coordinateTransformations": shown if any(translation) else shown[:1]}


def _state(group: zarr.Group, datasets: Sequence[Mapping[str, Any]]) -> None:
    """Say in the attributes which levels there are."""
    axes = [{"name": axis, "type": "space", "unit": "micrometer"} for axis in "zyx"]
    scales = {"version": "0.4", "name": "image", "axes": axes, "datasets": list(datasets), "type": "mean"}
    group.attrs["multiscales"] = [scales]


def _pool(fine: zarr.Array, coarse: zarr.Array) -> None:
    """Fill a level with the mean of twice as many voxels along each axis, one chunk after another."""
    starts = (range(0, n, chunk) for n, chunk in zip(coarse.shape, coarse.chunks, strict=True))
    for corner in itertools.product(*starts):
        stop = [min(a + b, n) for a, b, n in zip(corner, coarse.chunks, coarse.shape, strict=True)]
        block = np.asarray(fine[tuple(slice(2 * a, 2 * b) for a, b in zip(corner, stop, strict=True))])
        if block.any():
            coarse[tuple(slice(a, b) for a, b in zip(corner, stop, strict=True))] = _halved(block)


def _halved(block: np.ndarray) -> np.ndarray:
    """Return the mean of 2 x 2 x 2 voxels; the last voxel of an odd edge stands for two.

    >>> _halved(np.array([[[0, 3, 9]]], np.uint8)).tolist()
    [[[2, 9]]]
    """
    even = np.pad(block, [(0, n % 2) for n in block.shape], mode="edge")
    z, y, x = (n // 2 for n in even.shape)
    exact = np.float64 if block.dtype.itemsize > 2 else np.float32
    mean = even.reshape(z, 2, y, 2, x, 2).mean((1, 3, 5), dtype=exact)
    return (mean if block.dtype.kind == "f" else np.rint(mean)).astype(block.dtype)


def _partial(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    return path.with_name(f".{path.name}.{os.getpid()}.partial")


def _put(partial: Path, path: Path) -> None:
    """Move a folder to its place; a Zarr that is there is removed."""
    if not path.exists():
        partial.rename(path)
        return
    if not any((path / mark).is_file() for mark in _MARKS):
        raise InputError(f"{path}: is there and is no Zarr; accepted: another name")
    old = path.with_name(f".{path.name}.{os.getpid()}.old")
    path.rename(old)
    partial.rename(path)
    shutil.rmtree(old)
