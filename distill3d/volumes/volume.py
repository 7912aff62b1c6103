"""Volumes on disk and in memory: an array in ZYX and the size of its voxels in micrometers.

Intensities are never changed and nothing is resampled.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import final

import numpy as np

from distill3d.errors import InputError
from distill3d.volumes.blocks import require_finite
from distill3d.volumes.geometry import Spacing, Stated, checked_spacing, grid_in_words
from distill3d.volumes.lazy import OPENERS, LazyVolume, OnDisk
from distill3d.volumes.oriented import nrrd_files, read_nifti, read_nrrd
from distill3d.volumes.origin import as_notes
from distill3d.volumes.parts import is_large
from distill3d.volumes.stack_files import is_stack, names_folder, split_inside, suffix_of
from distill3d.volumes.tiff import read_tiff, write_tiff
from distill3d.volumes.vaa3d import read_pbd, read_raw

_LOG = logging.getLogger(__name__)
_ACCEPTED_DTYPES = (np.dtype(np.uint8), np.dtype(np.uint16), np.dtype(np.float32))


@final
@dataclass(frozen=True, slots=True, eq=False)
class Volume:
    """A 3D image.

    Attributes:
        data: [Z, Y, X], uint8, uint16 or float32. Bool becomes uint8, whole numbers within 0..65535 become uint16,
            everything else float32.
        spacing_um: voxel size ZYX in micrometers, finite and above 0.
        stated: what the file it was read from states of its voxels; nothing for an array of memory.

    Raises:
        InputError: not three axes, an axis of length 0, a dtype that is no number, a spacing out of range.
    """

    data: np.ndarray
    spacing_um: Spacing = (1.0, 1.0, 1.0)
    stated: Stated = Stated()  # noqa: RUF009 - immutable

    def __post_init__(self) -> None:
        if self.data.ndim != 3 or not self.data.size:
            raise InputError(f"volume of shape {self.data.shape} found; three axes (z, y, x), none empty, are accepted")
        object.__setattr__(self, "data", _as_accepted_dtype(self.data))
        object.__setattr__(self, "spacing_um", _require_spacing(self.spacing_um))

    @property
    def stated_um(self) -> Spacing | None:
        """The voxel size that its file states, whichever was taken; None where it states none."""
        return self.stated.spacing_um

    @property
    def shape(self) -> tuple[int, int, int]:
        """Voxels along ZYX."""
        z, y, x = self.data.shape
        return z, y, x


def read_volume(
    path: str | os.PathLike[str],
    *,
    spacing_um: Sequence[float] | None = None,
    channel: int = 0,
    allow_blank: bool = False,
) -> Volume:
    """Read an image stack; the format goes by the suffix, one of ``VOLUME_SUFFIXES``.

    Arrays come as stored, no axis is flipped. A 2D image becomes one slice.

    Args:
        path: file to read, or folder of a format that is one; ``cell.h5:/raw`` names an array in a file of several.
        spacing_um: ZYX voxel size; wins over the file's. Where neither states one it is 1, with a warning (once).
        channel: which channel of a file that has several, from 0.
        allow_blank: accept a volume that is 0 everywhere (a mask may be).

    Raises:
        InputError: missing, empty, truncated or damaged file, unknown suffix, not 3D, NaN or infinite voxels,
            or all voxels 0.
    """
    path = Path(path)
    with _stack(path) as suffix:
        if suffix in OPENERS:
            blocks, stated = OPENERS[suffix](path, channel)
            data = blocks.whole()
        else:
            data, stated = _READERS[suffix](path, channel)
    _require_content(path, data, allow_blank=allow_blank)
    volume = Volume(data, _spacing_of(path, spacing_um, stated), stated)
    _LOG.info("%s: ZYX %s %s, spacing %s um", path, volume.shape, volume.data.dtype, volume.spacing_um)
    return volume


def open_volume(
    path: str | os.PathLike[str],
    *,
    spacing_um: Sequence[float] | None = None,
    channel: int = 0,
    allow_blank: bool = False,
) -> LazyVolume:
    """Open an image stack to read its finest level by block; stacks of formats that cannot be read so are read whole.

    Args:
        path: as for `read_volume`.
        spacing_um: ZYX voxel size; wins over the file's. Where neither states one it is 1, with a warning (once).
        channel: which channel of a file that has several, from 0.
        allow_blank: as for `read_volume`, where the stack is read whole; else nobody knows yet.

    Raises:
        InputError: as for `read_volume`; later, when a block is read, a part of the file that is damaged, or has NaN or
            infinite voxels.
    """
    path = Path(path)
    with _stack(path) as suffix:
        if suffix in OPENERS:
            blocks, stated = OPENERS[suffix](path, channel)
            return LazyVolume(OnDisk(blocks, (path, channel)), _spacing_of(path, spacing_um, stated), stated)
    volume = read_volume(path, spacing_um=spacing_um, channel=channel, allow_blank=allow_blank)
    return LazyVolume(volume.data, volume.spacing_um, volume.stated)


def read_or_open(
    path: str | os.PathLike[str],
    *,
    spacing_um: Sequence[float] | None = None,
    channel: int = 0,
) -> Volume | LazyVolume:
    """Read a mask or probability as `read_volume` does, or open it where it is large and can be read by part.

    It may be 0 everywhere.

    Raises:
        InputError: as for `read_volume`, or `open_volume`.
    """
    path = Path(path)
    if suffix_of(path) in OPENERS:
        volume = open_volume(path, spacing_um=spacing_um, channel=channel)
        if is_large(volume.shape):
            _LOG.warning("%s: of ZYX %s voxels; it stays on disk and is read by part", path, volume.shape)
            return volume
    return read_volume(path, spacing_um=spacing_um, channel=channel, allow_blank=True)


def write_volume(path: str | os.PathLike[str], volume: Volume, *, notes: Mapping[str, str] | None = None) -> None:
    """Write a volume with its spacing and its place in space; it appears whole or not at all.

    Args:
        path: to write: a file .tif, zlib-compressed, or a folder .zarr, OME-Zarr 0.4 with coarser levels.
        volume: what to write.
        notes: for its header, see `distill3d.volumes.origin`.

    Raises:
        InputError: another suffix, or a folder is there that is no Zarr.
    """
    path = Path(path)
    notes = {**as_notes(**grid_in_words(volume.stated.grid)), **(notes or {})}
    if path.suffix.lower() == ".zarr":
        from distill3d.volumes.zarr_writing import write_zarr  # noqa: PLC0415 - a second of import

        write_zarr(path, volume.data, volume.spacing_um, notes)
    elif path.suffix.lower() in {".tif", ".tiff"}:
        write_tiff(path, volume.data, volume.spacing_um, notes)
    else:
        raise InputError(
            f"{path}: cannot write {path.suffix or 'a file without suffix'}; .tif, .tiff and .zarr are accepted"
        )


def volume_files(path: Path) -> tuple[Path, ...]:
    """Return the files an image lies in: the one that is named, and the data file of a detached NRRD header."""
    return nrrd_files(path) if path.name.lower().endswith((".nhdr", ".nrrd")) else (path,)


@contextmanager
def _stack(path: Path) -> Iterator[str]:
    """Yield the suffix of a stack that is there; whatever goes wrong with it becomes one line that names it."""
    suffix, (file, _) = suffix_of(path), split_inside(path)
    if not is_stack(path):
        if names_folder(file) and file.exists():
            raise InputError(f"{path}: is a file; a folder {suffix} is expected")
        raise InputError(f"{path}: no such file; an image stack is expected")
    if file.is_file() and not file.stat().st_size:
        raise InputError(f"{path}: the file is empty (0 bytes); an image stack is expected")
    try:
        yield suffix
    except InputError:
        raise
    except Exception as error:
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        raise InputError(f"{path}: damaged or truncated ({reason:.120}); a complete file is expected") from error


_READERS: dict[str, Callable[[Path, int], tuple[np.ndarray, Stated]]] = {
    ".ome.tif": read_tiff,
    ".ome.tiff": read_tiff,
    ".tif": read_tiff,
    ".tiff": read_tiff,
    ".v3dpbd": read_pbd,
    ".v3draw": read_raw,
    ".nrrd": read_nrrd,
    ".nhdr": read_nrrd,
    ".nii.gz": read_nifti,
    ".nii": read_nifti,
}


def _spacing_of(path: Path, chosen: Sequence[float] | None, stated: Stated) -> Spacing:
    spacing = _require_spacing(chosen, source=str(path)) if chosen is not None else stated.spacing_um
    if spacing is None:
        _warn_no_spacing(str(path))
    return spacing or (1.0, 1.0, 1.0)


def _require_spacing(spacing_um: Sequence[float], source: str = "volume") -> Spacing:
    sizes = [float(size) for size in spacing_um]
    checked = checked_spacing(sizes) if len(sizes) == 3 else None
    if checked is None:
        raise InputError(f"{source}: spacing_um {tuple(sizes)}; three finite numbers > 0 (z, y, x) are accepted")
    return checked


def _require_content(path: Path, data: np.ndarray, *, allow_blank: bool) -> None:
    """Refuse values from which nothing can be learned."""
    if data.dtype.kind not in "buif":
        raise InputError(f"{path}: values of type {data.dtype}; whole or real numbers are accepted")
    if not data.size:
        raise InputError(f"{path}: volume of shape {data.shape}; no axis may be empty")
    require_finite(path, data)
    if not (allow_blank or data.any()):
        raise InputError(f"{path}: every voxel is 0; a volume with signal is expected")


def _as_accepted_dtype(data: np.ndarray) -> np.ndarray:
    """Return the data as uint8, uint16 or float32, native and contiguous, without a copy where it already is."""
    if data.dtype == bool:
        target = np.dtype(np.uint8)
    elif data.dtype.newbyteorder("=") in _ACCEPTED_DTYPES:
        target = data.dtype.newbyteorder("=")
    elif data.dtype.kind in "ui" and data.min() >= 0 and data.max() <= np.iinfo(np.uint16).max:
        target = np.dtype(np.uint16)
    elif data.dtype.kind in "uif":
        target = np.dtype(np.float32)
    else:
        raise InputError(f"volume of type {data.dtype} found; whole or real numbers are accepted")
    return np.ascontiguousarray(data, dtype=target)


def _warn_no_spacing(path: str) -> None:
    """Log once per process that a spacing was assumed."""
    if not _SPACING_WARNED:
        _SPACING_WARNED.append(path)
        _LOG.warning(
            "%s: states no spacing; 1 um a voxel is assumed, here and for every further file without one", path
        )


_SPACING_WARNED: list[str] = []
