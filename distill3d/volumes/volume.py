"""Volumes on disk and in memory: an array in ZYX and the size of its voxels in micrometers.

Intensities are never changed and nothing is resampled.
"""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import final

import numpy as np

from distill3d.errors import InputError
from distill3d.volumes.geometry import Spacing, Stated, checked_spacing, grid_in_words
from distill3d.volumes.memory import require_room
from distill3d.volumes.oriented import nrrd_files, read_nifti, read_nrrd
from distill3d.volumes.origin import as_notes
from distill3d.volumes.tiff import pick_channel, read_tiff, write_tiff
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

    >>> Volume(np.zeros((2, 3, 4), bool), (3.0, 1.0, 1.0)).size_um
    (6.0, 3.0, 4.0)
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

    @property
    def size_um(self) -> Spacing:
        """Edge lengths ZYX in micrometers."""
        z, y, x = (n * s for n, s in zip(self.data.shape, self.spacing_um, strict=True))
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
        path: file to read.
        spacing_um: ZYX voxel size; wins over the file's. Where neither states one it is 1, with a warning (once).
        channel: which channel of a file that has several, from 0.
        allow_blank: accept a volume that is 0 everywhere (a mask may be).

    Raises:
        InputError: missing, empty, truncated or damaged file, unknown suffix, not 3D, NaN or infinite voxels,
            or all voxels 0.
    """
    path = Path(path)
    reader = _READERS[_suffix(path)]
    if not path.is_file():
        raise InputError(f"{path}: no such file; an image stack is expected")
    if not path.stat().st_size:
        raise InputError(f"{path}: the file is empty (0 bytes); an image stack is expected")
    try:
        data, stated = reader(path, channel)
    except InputError:
        raise
    except Exception as error:
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        raise InputError(f"{path}: damaged or truncated ({reason:.120}); a complete file is expected") from error
    _require_content(path, data, allow_blank=allow_blank)
    spacing = _require_spacing(spacing_um, source=str(path)) if spacing_um is not None else stated.spacing_um
    if spacing is None:
        _warn_no_spacing(str(path))
    volume = Volume(data, spacing or (1.0, 1.0, 1.0), stated)
    _LOG.info("%s: ZYX %s %s, spacing %s um", path, volume.shape, volume.data.dtype, volume.spacing_um)
    return volume


def write_volume(path: str | os.PathLike[str], volume: Volume, *, notes: Mapping[str, str] | None = None) -> None:
    """Write a volume as .tif, zlib-compressed, with its spacing and its place in space; it appears whole or not at all.

    Args:
        path: file to write.
        volume: what to write.
        notes: for its header, see `distill3d.volumes.origin`.

    Raises:
        InputError: the suffix is neither .tif nor .tiff.
    """
    path = Path(path)
    if path.suffix.lower() not in {".tif", ".tiff"}:
        raise InputError(f"{path}: cannot write {path.suffix or 'a file without suffix'}; .tif and .tiff are accepted")
    place = as_notes(**grid_in_words(volume.stated.grid))
    write_tiff(path, volume.data, volume.spacing_um, {**place, **(notes or {})})


def volume_files(path: Path) -> tuple[Path, ...]:
    """Return the files an image lies in: the one that is named, and the data file of a detached NRRD header."""
    return nrrd_files(path) if path.name.lower().endswith((".nhdr", ".nrrd")) else (path,)


def _read_npy(path: Path, channel: int) -> tuple[np.ndarray, Stated]:
    with warnings.catch_warnings(action="ignore"):  # numpy's, of an old or damaged header
        mapped = np.lib.format.open_memmap(path, mode="r")  # which refuses one that claims more than the file has
    require_room(path, mapped.nbytes)
    data = np.array(mapped)
    if data.ndim == 4:
        data = pick_channel(path, data, 0, channel)
    data = data[None] if data.ndim == 2 else data
    if data.ndim != 3:
        raise InputError(f"{path}: array of shape {data.shape}; one 3D volume is accepted")
    return data, Stated()


_READERS: dict[str, Callable[[Path, int], tuple[np.ndarray, Stated]]] = {
    ".tif": read_tiff,
    ".tiff": read_tiff,
    ".v3dpbd": read_pbd,
    ".v3draw": read_raw,
    ".nrrd": read_nrrd,
    ".nhdr": read_nrrd,
    ".nii.gz": read_nifti,
    ".nii": read_nifti,
    ".npy": _read_npy,
}
VOLUME_SUFFIXES: tuple[str, ...] = tuple(_READERS)


# Stacks of microscopes and of other programs: nobody here reads them, and they are named where they lie.
FOREIGN_SUFFIXES: tuple[str, ...] = (
    ".am", ".czi", ".dcm", ".h5", ".hdf5", ".hdr", ".ics", ".ids", ".img", ".ims", ".jp2", ".klb", ".lif", ".lsm",
    ".mha", ".mhd", ".mrc", ".n5", ".nd2", ".ndpi", ".oib", ".oif", ".oir", ".sld", ".svs", ".vsi", ".zarr",
)  # fmt: skip
READ_AS = f"accepted are {' '.join(VOLUME_SUFFIXES)} (Fiji saves others as .tif)"


def stem_of(path: str | os.PathLike[str]) -> str:
    """Return a file's name without the suffix of its format, and nothing else.

    Raises:
        InputError: no format has this suffix.

    >>> stem_of("raw/2024.05.12_cell1.tif"), stem_of("cell.NII.gz")
    ('2024.05.12_cell1', 'cell')
    """
    path = Path(path)
    return path.name[: -len(_suffix(path))]


def _suffix(path: Path) -> str:
    for suffix in VOLUME_SUFFIXES:
        if path.name.lower().endswith(suffix):
            return suffix
    if path.suffix.lower() in FOREIGN_SUFFIXES:
        raise InputError(f"{path}: {path.suffix} is not read; {READ_AS}")
    raise InputError(f"{path}: unknown suffix {path.suffix!r}; accepted are {' '.join(VOLUME_SUFFIXES)}")


def _require_spacing(spacing_um: Sequence[float], source: str = "volume") -> Spacing:
    sizes = [float(size) for size in spacing_um]
    checked = checked_spacing(sizes) if len(sizes) == 3 else None
    if checked is None:
        raise InputError(f"{source}: spacing_um {tuple(sizes)}; three finite numbers > 0 (z, y, x) are accepted")
    return checked


def _require_content(path: Path, data: np.ndarray, *, allow_blank: bool) -> None:
    """Refuse values from which nothing can be learned; two reductions, no copy."""
    if data.dtype.kind not in "buif":
        raise InputError(f"{path}: values of type {data.dtype}; whole or real numbers are accepted")
    if not data.size:
        raise InputError(f"{path}: volume of shape {data.shape}; no axis may be empty")
    low, high = data.min(), data.max()
    if not (np.isfinite(low) and np.isfinite(high)):
        raise InputError(f"{path}: holds NaN or infinite voxels; finite numbers are accepted")
    if not (allow_blank or low or high):
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
