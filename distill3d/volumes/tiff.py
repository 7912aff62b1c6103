"""Read and write TIFF stacks: which axis is z, how large a voxel is, and whether the file is whole."""

from __future__ import annotations

import itertools
import logging
import math
import os
import re
import struct
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import tifffile

from distill3d.errors import InputError
from distill3d.volumes.blocks import require_channel
from distill3d.volumes.geometry import (
    INCH,
    Spacing,
    Stated,
    complete_spacing,
    grid_of_words,
    number_of,
    um_per_unit,
    warn_no_unit,
)
from distill3d.volumes.memory import DEFLATE, require_room
from distill3d.volumes.origin import notes_in
from distill3d.volumes.remarks import heard, in_words, warn_of

_LOG = logging.getLogger(__name__)
# Of what tifffile logs: lost pages, lost text (which is OME's), lost resolutions
_LOST = re.compile(r"TiffPages|metadata invalid|TiffTag (270|282|283) ")
_MAX_CHANNELS = 4  # an image whose only stack axis is called channel and is longer than this is a z stack
_IMAGEJ_BYTES = 2**32 - 2**25  # ImageJ's flavor cannot be a BigTIFF
MOST_PAGES = 1 << 20  # a stack of so many slices is none
_MOST_TAGS = 4096  # of a page; tifffile's own bound
_EXPANSION = {1: 1.0, 5: 2600.0, 8: DEFLATE, 32946: DEFLATE, 32773: 64.0}  # raw, LZW, deflate twice, PackBits


def read_tiff(path: Path, channel: int) -> tuple[np.ndarray, Stated]:
    """Read a TIFF stack and what it states of its voxels.

    The largest series is read; several that are slices of one shape, as a program appends them, are one stack.
    Singleton axes are dropped; of the rest, ``C`` and ``S`` are channels and the one stack axis that is left (Z, T, I,
    Q...) is z. A lone channel axis longer than 4 is z, too. The decision is logged at INFO.

    Args:
        path: file to read.
        channel: which channel, from 0.

    Returns:
        Array [Z, Y, X] and its voxel size, each axis in its own unit; its place in space only where `write_volume`
        noted it.

    Raises:
        InputError: damaged or truncated, several stacks, no such channel, or more than three dimensions are left.
    """
    records: list[logging.LogRecord] = []
    require_chain(path)
    try:
        with heard("tifffile") as records, tifffile.TiffFile(path) as tif:
            _require_planes(path, tif)
            chosen = _chosen(path, tif.series)
            series = chosen[0]
            complete = not _lost(records) and all(page is not None for each in chosen for page in each.pages)
            if complete:
                _require_claim(path, chosen)
            data = _pixels(chosen) if complete else np.empty(0)
            axes, shape = series.get_axes(squeeze=False), series.get_shape(squeeze=False)
            if len(chosen) > 1:
                axes, shape = f"I{axes}", (len(chosen), *shape)
            stated = _stated(path, tif, tif.series.index(series)) if complete else Stated()
            stated = replace(stated, grid=grid_of_words(notes_in(tif.pages.first.description)))
    except InputError:
        raise
    except Exception as error:
        raise InputError(f"{path}: not a whole TIFF file ({error!s:.100}); a complete .tif is expected") from error
    if (problems := _lost(records)) or not complete:
        raise InputError(
            f"{path}: truncated TIFF ({(problems or ['pages are missing'])[0]:.100}); a complete .tif is expected"
        )
    warn_of(path, records)
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


def require_chain(path: Path) -> None:
    """Walk the chain of a file's pages, which tifffile follows without end where it leads back.

    Raises:
        InputError: no TIFF, a page that comes again, or more pages than a stack has.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        head = file.read(16)
        order, version = {b"II": "<", b"MM": ">"}.get(head[:2]), head[2:4]
        big = version in {b"+\0", b"\0+"}
        if order is None or not (big or version in {b"*\0", b"\0*"}):
            raise InputError(f"{path}: not a TIFF file; a complete .tif is expected")
        count, link, tag = (f"{order}Q", f"{order}Q", 20) if big else (f"{order}H", f"{order}I", 12)
        place, seen = struct.unpack_from(link, head.ljust(16, b"\0"), 8 if big else 4)[0], set()
        while 0 < place < size:
            if place in seen or len(seen) == MOST_PAGES:
                reason = f"page {len(seen)} leads back to an earlier one" if place in seen else "its pages do not end"
                raise InputError(f"{path}: damaged TIFF ({reason}); accepted: a chain of at most {MOST_PAGES} pages")
            seen.add(place)
            file.seek(place)
            n_tags = int.from_bytes(file.read(struct.calcsize(count)), "little" if order == "<" else "big")
            file.seek(n_tags * tag if n_tags <= _MOST_TAGS else size, os.SEEK_CUR)
            after = file.read(struct.calcsize(link))
            place = struct.unpack(link, after)[0] if len(after) == struct.calcsize(link) else 0


def _require_planes(path: Path, tif: tifffile.TiffFile) -> None:
    """Refuse OME metadata that speak of more planes than a stack has: tifffile makes a list of them."""
    if not tif.is_ome:
        return
    for pixels in re.findall(r"<(?:\w+:)?Pixels\b[^>]*>", tif.ome_metadata or ""):
        planes = math.prod(int(size) for size in re.findall(r"""\bSize[ZCT]\s*=\s*["']\s*(\d{1,18})""", pixels))
        if planes > MOST_PAGES:
            raise InputError(f"{path}: its metadata speak of {planes} planes; accepted: at most {MOST_PAGES}")


def _chosen(path: Path, series: Sequence[tifffile.TiffPageSeries]) -> list[tifffile.TiffPageSeries]:
    """Return the largest image of a file, or all where each is a slice of one shape and type."""
    largest = max(each.size for each in series)
    chosen = [each for each in series if each.size == largest]
    if len(chosen) == 1:
        if len(series) > 1:
            _LOG.warning("%s: holds %d images; the largest one is read", path, len(series))
        return chosen
    kinds = {(each.axes, each.shape, each.dtype) for each in series}
    if len(kinds) > 1 or not set(series[0].axes) <= set("YXS"):
        shapes = " and ".join(sorted(f"{axes} {shape} {dtype}" for axes, shape, dtype in kinds))
        raise InputError(
            f"{path}: holds {len(series)} images ({shapes}), {len(chosen)} of them the largest; accepted: one that is, "
            "or slices of one shape and type"
        )
    _LOG.warning("%s: holds %d images of one slice each; they are read as one stack", path, len(series))
    return chosen


def _pixels(chosen: Sequence[tifffile.TiffPageSeries]) -> np.ndarray:
    return chosen[0].asarray() if len(chosen) == 1 else np.stack([each.asarray() for each in chosen])


def _require_claim(path: Path, chosen: Sequence[tifffile.TiffPageSeries]) -> None:
    """Refuse images, or a part of one, that are larger than their files can hold or than there is room for."""
    files: dict[str, int] = {}
    for page in itertools.chain.from_iterable(each.pages for each in chosen):
        if page is not None:
            size = files[page.parent.filehandle.path] = page.parent.filehandle.size
            require_room(path, max(page.databytecounts, default=0), stored=size, claims="a strip or tile of it claims")
    claim = max(sum(each.nbytes for each in chosen), *map(_tile_bytes, chosen))
    require_room(path, claim, stored=sum(files.values()), expansion=max(map(_growth, chosen)))


def _tile_bytes(series: tifffile.TiffPageSeries) -> int:
    return math.prod(series.keyframe.chunks) * series.dtype.itemsize if series.keyframe.is_tiled else 0


def _growth(series: tifffile.TiffPageSeries) -> float:
    """Return what a byte of the file becomes at most; a file may pack values that memory does not."""
    of_bits = series.keyframe.bitspersample / (8 * series.dtype.itemsize)
    return _EXPANSION.get(int(series.keyframe.compression), math.inf) / of_bits


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
    if not {"C", "S"} & set(names):
        require_channel(path, 1, channel)
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
    require_channel(path, count, channel)
    return np.take(data, channel, axis=axis) if count > 1 else data.reshape(np.delete(data.shape, axis))


def _stated(path: Path, tif: tifffile.TiffFile, index: int) -> Stated:
    """Return the voxel size that the metadata state."""
    if tif.is_ome and tif.ome_metadata:
        return Stated(_ome_spacing(path, tifffile.xml2dict(tif.ome_metadata), index))
    shaped = tif.shaped_metadata
    metadata = tif.imagej_metadata or (shaped[0] if shaped else {})
    names = [metadata.get(f"{axis}unit") or metadata.get("unit") for axis in "zyx"]  # ImageJ's "unit" is that of x
    units = [um_per_unit(name) for name in names]
    if INCH in units or (not any(units) and "spacing" not in metadata):
        return Stated()  # a resolution without a unit or by inch is for printing: 72 dpi says nothing about a neuron
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


def _lost(records: Sequence[logging.LogRecord]) -> list[str]:
    """Return what tifffile merely logs about missing pages, sizes and text: a shorter volume, or one without axes."""
    errors = [record for record in records if record.levelno >= logging.ERROR]
    return [in_words(record) for record in errors if _LOST.search(record.getMessage())]
