"""Read and write TIFF stacks: which axis is z, how large a voxel is, and whether the file is whole."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import tifffile

from distill3d.errors import InputError

_LOG = logging.getLogger(__name__)
_MAX_CHANNELS = 4  # an image whose only stack axis is called channel and is longer than this is a z stack
_IMAGEJ_BYTES = 2**32 - 2**25  # ImageJ's flavor cannot be a BigTIFF
UM_PER_UNIT = {
    "m": 1e6, "cm": 1e4, "mm": 1e3, "um": 1.0, "nm": 1e-3,
    "meter": 1e6, "centimeter": 1e4, "millimeter": 1e3, "micrometer": 1.0, "nanometer": 1e-3,
    "micron": 1.0, "inch": 25400.0,
}  # fmt: skip

Spacing = tuple[float, float, float]


def read_tiff(path: Path, channel: int) -> tuple[np.ndarray, Spacing | None]:
    """Read a TIFF stack and the voxel size it states.

    The largest series is read. Singleton axes are dropped; of the rest, ``C`` and ``S`` are channels and the one stack
    axis that is left (Z, T, I, Q...) is z. A lone channel axis longer than 4 is z, too. The decision is logged at INFO.

    Args:
        path: file to read.
        channel: which channel, from 0.

    Returns:
        Array [Z, Y, X] and ZYX spacing in um, or None where the file states none.

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
            spacing = _stated_spacing(tif, tif.series.index(series)) if complete else None
    except Exception as error:
        raise InputError(f"{path}: not a whole TIFF file ({error!s:.100}); a complete .tif is expected") from error
    if problems or not complete:
        raise InputError(
            f"{path}: truncated TIFF ({(problems or ['pages are missing'])[0]:.100}); all pages are needed"
        )
    volume = _as_zyx(path, data.reshape(shape), axes, channel)
    _LOG.info("%s: TIFF axes %s %s read as ZYX %s", path, axes, shape, volume.shape)
    return volume, spacing


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


def _stated_spacing(tif: tifffile.TiffFile, index: int) -> Spacing | None:
    """Return the voxel size in um that the metadata states; None where they state none."""
    if tif.is_ome and tif.ome_metadata:
        return _ome_spacing(tifffile.xml2dict(tif.ome_metadata), index)
    shaped = tif.shaped_metadata
    metadata = tif.imagej_metadata or (shaped[0] if shaped else {})
    unit = um_per_unit(metadata.get("unit"))
    if unit is None and "spacing" not in metadata:
        return None  # a resolution without a unit is meant for printing: 72 dpi says nothing about a neuron
    if unit is None:
        _LOG.warning("%s: spacing %s in unit %r; taken as um", tif.filename, metadata["spacing"], metadata.get("unit"))
    tags = tif.pages.first.tags
    in_plane = [tags[name].value if name in tags else (1, 1) for name in ("YResolution", "XResolution")]
    if any(0 in pixels_per_unit for pixels_per_unit in in_plane):
        return None
    sizes = [abs(float(metadata.get("spacing", 1.0))), *(den / num for num, den in in_plane)]
    return checked_spacing([size * (unit or 1.0) for size in sizes])


def _ome_spacing(metadata: dict[str, Any], index: int) -> Spacing | None:
    images = metadata["OME"].get("Image", [])
    images = images if isinstance(images, list) else [images]
    pixels = images[min(index, len(images) - 1)]["Pixels"] if images else {}
    if "PhysicalSizeX" not in pixels:
        return None
    units = [um_per_unit(pixels.get(f"PhysicalSize{axis}Unit", "um")) or 1.0 for axis in "ZYX"]
    sizes = [float(pixels.get(f"PhysicalSize{axis}", 1.0)) for axis in "ZYX"]
    return checked_spacing([size * unit for size, unit in zip(sizes, units, strict=True)])


def um_per_unit(name: object) -> float | None:
    """Return how many micrometers a unit of length has; None for ``pixel``, nothing or an unknown word.

    >>> um_per_unit("mm"), um_per_unit("microns"), um_per_unit("pixel")
    (1000.0, 1.0, None)
    """
    word = str(name).replace("\\u00B5", "u").replace("µ", "u").replace("μ", "u").strip().lower()
    return UM_PER_UNIT.get(word) or UM_PER_UNIT.get(word.removesuffix("s"))


def checked_spacing(sizes: list[float]) -> Spacing | None:
    """Return three sizes as a spacing, or None unless all are finite and above 0."""
    z, y, x = sizes
    return (z, y, x) if all(np.isfinite(size) and size > 0 for size in sizes) else None


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
