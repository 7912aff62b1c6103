"""Read and write TIFF stacks: which axis is z, how large a voxel is, and whether the file is whole."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import tifffile

from distill3d.errors import InputError
from distill3d.volumes.geometry import (
    Spacing,
    Stated,
    complete_spacing,
    grid_of_words,
    number_of,
    um_per_unit,
    warn_no_unit,
)
from distill3d.volumes.origin import notes_in

_LOG = logging.getLogger(__name__)
_MAX_CHANNELS = 4  # an image whose only stack axis is called channel and is longer than this is a z stack
_IMAGEJ_BYTES = 2**32 - 2**25  # ImageJ's flavor cannot be a BigTIFF


def read_tiff(path: Path, channel: int) -> tuple[np.ndarray, Stated]:
    """Read a TIFF stack and what it states of its voxels.

    The largest series is read. Singleton axes are dropped; of the rest, ``C`` and ``S`` are channels and the one stack
    axis that is left (Z, T, I, Q...) is z. A lone channel axis longer than 4 is z, too. The decision is logged at INFO.

    Args:
        path: file to read.
        channel: which channel, from 0.

    Returns:
        Array [Z, Y, X] and its voxel size, each axis in its own unit; its place in space only where `write_volume`
        noted it.

    Raises:
        InputError: damaged or truncated, no such channel, or more than three dimensions are left.
    """
    problems: list[str] = []
    try:
        with _tifffile_errors(problems), tifffile.TiffFile(path) as tif:
            series = max(tif.series, key=lambda s: s.size)
            if len(tif.series) > 1:
                _LOG.warning("%s: holds %d images; the largest one is read", path, len(tif.series))
            complete = not problems and all(page is not None for page in series.pages)
            data = series.asarray() if complete else np.empty(0)
            axes, shape = series.get_axes(squeeze=False), series.get_shape(squeeze=False)
            stated = _stated(path, tif, tif.series.index(series)) if complete else Stated()
            stated = replace(stated, grid=grid_of_words(notes_in(tif.pages.first.description)))
    except Exception as error:
        raise InputError(f"{path}: not a whole TIFF file ({error!s:.100}); a complete .tif is expected") from error
    if problems or not complete:
        raise InputError(
            f"{path}: truncated TIFF ({(problems or ['pages are missing'])[0]:.100}); all pages are needed"
        )
    volume = _as_zyx(path, data.reshape(shape), axes, channel)
    _LOG.info("%s: TIFF axes %s %s read as ZYX %s", path, axes, shape, volume.shape)
    return volume, stated


def write_tiff(path: Path, data: np.ndarray, spacing_um: Spacing, notes: Mapping[str, str] | None = None) -> None:
    """Write [Z, Y, X] as an ImageJ stack (OME BigTIFF from 4 GB on) with spacing, zlib; whole or not at all.

    Notes, in ASCII, become lines ``key=value`` of the description.
    """
    (z, y, x), notes = spacing_um, notes or {}
    flavor: dict[str, Any]
    if data.nbytes < _IMAGEJ_BYTES and min(data.shape[1:]) > 1:  # ImageJ's flavor loses y or x of one voxel
        metadata = {"axes": "ZYX", "spacing": z, "unit": "um", **notes}
        flavor = {"imagej": True, "resolution": (1 / x, 1 / y), "metadata": metadata}
    else:
        sizes = {f"PhysicalSize{axis}": size for axis, size in zip("ZYX", spacing_um, strict=True)}
        units = {f"PhysicalSize{axis}Unit": "µm" for axis in "ZYX"}
        lines = {"Description": "\n".join(f"{key}={value}" for key, value in notes.items())} if notes else {}
        flavor = {"ome": True, "bigtiff": True, "metadata": {"axes": "ZYX", **sizes, **units, **lines}}
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        tifffile.imwrite(partial, data, compression="zlib", photometric="minisblack", **flavor)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def _as_zyx(path: Path, data: np.ndarray, axes: str, channel: int) -> np.ndarray:
    """Reduce an array whose axes are named to [Z, Y, X]."""
    keep = [i for i, axis in enumerate(axes) if axis in "YX" or data.shape[i] > 1]
    data, names = data.reshape([data.shape[i] for i in keep]), [axes[i] for i in keep]
    stack_axes = [name for name in names if name not in "YXCS"]
    if not stack_axes and "C" in names and data.shape[names.index("C")] > _MAX_CHANNELS:
        names[names.index("C")] = "Z"
        stack_axes = ["Z"]
    if len(stack_axes) > 1:
        raise InputError(
            f"{path}: axes {axes} hold more than one stack ({', '.join(stack_axes)}); one 3D volume is accepted"
        )
    for name in "CS":
        if name in names:
            axis = names.index(name)
            data = pick_channel(path, data, axis, channel)
            names.pop(axis)
    order = [names.index(axis) for axis in [*stack_axes, "Y", "X"]]
    data = data.transpose(order)
    return data if stack_axes else data[None]


def pick_channel(path: Path, data: np.ndarray, axis: int, channel: int) -> np.ndarray:
    """Return one channel of an array as a view; a warning is logged where there are others.

    Raises:
        InputError: the array has no such channel.
    """
    count = data.shape[axis]
    if not 0 <= channel < count:
        raise InputError(f"{path}: channel {channel} asked for; this file has channels 0..{count - 1}")
    if count > 1:
        _LOG.warning("%s: has %d channels (or is RGB); channel %d is read", path, count, channel)
    return np.take(data, channel, axis=axis) if count > 1 else data.reshape(np.delete(data.shape, axis))


def _stated(path: Path, tif: tifffile.TiffFile, index: int) -> Stated:
    """Return the voxel size that the metadata state."""
    if tif.is_ome and tif.ome_metadata:
        return Stated(_ome_spacing(path, tifffile.xml2dict(tif.ome_metadata), index))
    shaped = tif.shaped_metadata
    metadata = tif.imagej_metadata or (shaped[0] if shaped else {})
    names = [metadata.get(f"{axis}unit") or metadata.get("unit") for axis in "zyx"]  # ImageJ's "unit" is that of x
    units = [um_per_unit(name) for name in names]
    if not any(units) and "spacing" not in metadata:
        return Stated()  # a resolution without a unit is meant for printing: 72 dpi says nothing about a neuron
    tags = tif.pages.first.tags
    in_plane = [tags[name].value if name in tags else (1, 1) for name in ("YResolution", "XResolution")]
    depth = number_of(metadata.get("spacing"))
    sizes = [depth and abs(depth), *(den / num if num and den else None for num, den in in_plane)]
    if not any(units):
        warn_no_unit(path, sizes, metadata.get("unit"))
        return Stated(complete_spacing(path, sizes), has_unit=False)
    return Stated(complete_spacing(path, [s and u and s * u for s, u in zip(sizes, units, strict=True)]))


def _ome_spacing(path: Path, metadata: dict[str, Any], index: int) -> Spacing | None:
    images = metadata["OME"].get("Image", [])
    images = images if isinstance(images, list) else [images]
    pixels = images[min(index, len(images) - 1)]["Pixels"] if images else {}
    sizes = [number_of(pixels.get(f"PhysicalSize{axis}")) for axis in "ZYX"]
    units = [um_per_unit(pixels.get(f"PhysicalSize{axis}Unit", "um")) for axis in "ZYX"]
    return complete_spacing(path, [s and u and s * u for s, u in zip(sizes, units, strict=True)])


@contextmanager
def _tifffile_errors(problems: list[str]) -> Iterator[None]:
    """Collect what tifffile merely logs about missing pages, which would otherwise become a shorter volume."""

    def collect(record: logging.LogRecord) -> bool:
        text = record.getMessage()
        lost = record.levelno >= logging.ERROR and ("TiffPages" in text or "metadata invalid" in text)
        if lost:
            problems.append(text.split("> ", maxsplit=1)[-1])
        return not lost

    logger = logging.getLogger("tifffile")
    logger.addFilter(collect)
    try:
        yield
    finally:
        logger.removeFilter(collect)
