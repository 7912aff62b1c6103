"""Read the formats whose header says how the stack lies in space: NRRD, attached or detached, and NIfTI."""

from __future__ import annotations

import bz2
import gzip
import io
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import nibabel
import nrrd
import numpy as np
from nibabel.openers import ImageOpener
from numpy.typing import NDArray

from distill3d.errors import InputError
from distill3d.volumes.blocks import require_channel
from distill3d.volumes.geometry import Grid, Stated, checked_grid, complete_spacing, um_per_unit, warn_no_unit
from distill3d.volumes.memory import DEFLATE, require_room, unpacked
from distill3d.volumes.remarks import heard, warn_of
from distill3d.volumes.tiff import pick_channel

_RAS = "right-anterior-superior"
_TO_RAS = {
    _RAS: (1, 1, 1), "ras": (1, 1, 1),
    "left-anterior-superior": (-1, 1, 1), "las": (-1, 1, 1),
    "left-posterior-superior": (-1, -1, 1), "lps": (-1, -1, 1),
}  # fmt: skip
_NRRD_ENCODINGS: dict[str, tuple[Callable[[BinaryIO], Any] | None, float]] = {
    "raw": (None, 1.0),
    "gzip": (gzip.open, DEFLATE), "gz": (gzip.open, DEFLATE),
    "bzip2": (bz2.open, math.inf), "bz2": (bz2.open, math.inf),
}  # fmt: skip
_NRRD_BYTES = {"16": 2, "32": 4, "64": 8, "8": 1, "char": 1, "short": 2, "long": 8, "double": 8}
_OF_TEXT = 4.0  # bytes that one of text becomes at most: "0 " as double
_NIFTI_UNITS = {1: 1e6, 2: 1e3, 3: 1.0}  # the low three bits of xyzt_units


def read_nrrd(path: Path, channel: int) -> tuple[np.ndarray, Stated]:
    """Read one channel of a NRRD file as [Z, Y, X] in the order it is stored, and what its header states.

    Raises:
        InputError: not three axes in space, no such channel, or a detached header without its data file.
    """
    missing = next((file for file in nrrd_files(path) if not file.is_file()), None)
    if missing is not None:
        raise InputError(f"{path}: its data file {missing} is not there; accepted: a header beside its one data file")
    with path.open("rb") as file:
        header = nrrd.read_header(file)
        data = _nrrd_data(path, file, header)
    steps = _nrrd_steps(header)
    spatial = [i for i in range(data.ndim) if steps is None or steps[i] is not None]
    if data.ndim == 4 and len(spatial) == 3:
        data = pick_channel(path, data, ({0, 1, 2, 3} - set(spatial)).pop(), channel)
    else:
        require_channel(path, 1, channel)
    flat = data.ndim == 2
    stack = data[None] if flat else data
    _require_3d(path, stack)
    if steps is None or len(spatial) != data.ndim:
        return stack, Stated()
    in_space = {i: np.asarray(steps[i]) for i in spatial}
    units = _nrrd_units(header, in_space)
    factors = [1.0 if unit in {None, ""} else um_per_unit(unit) or np.nan for unit in units]
    if "space directions" in header:
        vectors = [np.where(step == 0, 0.0, step * factors) for step in in_space.values()]
        grid = None if flat else _nrrd_grid(header, np.array(vectors).T, factors)
    else:
        vectors, grid = [step * factor for step, factor in zip(in_space.values(), factors, strict=True)], None
    sizes = [float(np.linalg.norm(vector)) for vector in vectors]
    return stack, _stated(path, [None, *sizes] if flat else sizes, all(units), grid)


def nrrd_files(path: Path) -> tuple[Path, ...]:
    """Return the files a NRRD image lies in: the one that is named, and where its header is detached the data file.

    >>> nrrd_files(Path("no_such.nhdr"))
    (PosixPath('no_such.nhdr'),)
    """
    try:
        header = nrrd.read_header(str(path))
    except (OSError, nrrd.NRRDError, ValueError, IndexError, KeyError):
        return (path,)  # whoever reads the image says what is wrong with it
    name = header.get("data file", header.get("datafile"))
    return (path,) if name is None else (path, path.parent / str(name))


def read_nifti(path: Path, channel: int) -> tuple[np.ndarray, Stated]:
    """Read one channel of a NIfTI file as [Z, Y, X] in the order it is stored, and what its header states.

    A negative voxel size counts by its absolute value; one of 0 is taken from the affine, where that is stated.

    Raises:
        InputError: another format, not three axes in space, or no such channel.
    """
    _require_nifti_claim(path)
    with heard("nibabel.global") as records:
        image = nibabel.load(path, mmap=False)
        if not isinstance(image, nibabel.Nifti1Image):
            raise InputError(f"{path}: holds {type(image).__name__}; NIfTI is accepted")
        data = np.asarray(image.dataobj)
    data = data.reshape([*data.shape[:3], *(n for n in data.shape[3:] if n > 1)])  # (x, y, z), then time or channels
    if data.ndim == 4:
        data = pick_channel(path, data, 3, channel)
    else:
        require_channel(path, 1, channel)
    data = data[..., None] if data.ndim == 2 else data
    _require_3d(path, data)
    warn_of(path, [record for record in records if "pixdim" not in record.getMessage()])  # sizes are looked at below
    with ImageOpener(str(path)) as file:  # what nibabel loads has its sizes of 0 set to 1 already
        header = type(image.header).from_fileobj(file, check=False)
    unit = _NIFTI_UNITS.get(int(header["xyzt_units"]) & 7)
    placed = int(header["sform_code"]) > 0 or int(header["qform_code"]) > 0
    affine = np.asarray(image.affine, np.float64) * (unit or 1.0)
    grid = checked_grid(affine[:3, 2::-1], affine[:3, 3], _RAS) if placed else None
    sizes = np.abs(np.asarray(header["pixdim"][1:4], np.float64))
    if unit is None and (sizes == 1).all():
        return data.transpose(), Stated(grid=grid, has_unit=False)
    sizes = sizes[::-1] * (unit or 1.0)
    if grid is not None:
        sizes = np.where(np.isfinite(sizes) & (sizes > 0), sizes, np.linalg.norm(grid.axes, axis=0))
    return data.transpose(), _stated(path, sizes.tolist(), unit is not None, grid)


def _nrrd_data(path: Path, file: BinaryIO, header: dict[str, Any]) -> np.ndarray:
    """Read the data behind a header, slowest axis first; of a compressed file no more is unpacked than it claims."""
    packed, sizes, encoding = nrrd_files(path)[-1], [int(n) for n in header["sizes"]], str(header["encoding"])
    stored = packed.stat().st_size
    lines, skip = (int(header.get(f"{what}skip", header.get(f"{what} skip", 0))) for what in ("line", "byte"))
    if max(lines, skip) > stored or min(sizes) < 1:
        raise InputError(f"{path}: sizes {sizes} behind {lines} lines and {skip} bytes; no axis may be empty")
    n_bytes = math.prod(sizes) * _nrrd_item_bytes(str(header["type"]))
    unpack, expansion = _NRRD_ENCODINGS.get(encoding, (None, _OF_TEXT))
    require_room(path, n_bytes, stored=stored, expansion=expansion)
    with packed.open("rb") as behind:
        behind.seek(file.tell() if packed == path else 0)
        here = {key: value for key, value in header.items() if key not in {"data file", "datafile"}}
        if unpack is None:
            return nrrd.read_data(here, behind, index_order="C")
        for _ in range(lines):
            behind.readline()
        content = unpacked(path, unpack(behind), n_bytes + max(skip, 0))[max(skip, 0) :]
    plain = {key: value for key, value in here.items() if "skip" not in key} | {"encoding": "raw"}
    return nrrd.read_data(plain, io.BytesIO(content), index_order="C")


def _nrrd_item_bytes(kind: str) -> int:
    """Return the bytes of a value.

    >>> [_nrrd_item_bytes(kind) for kind in ("uchar", "unsigned short", "int", "uint8_t", "float", "longlong")]
    [1, 2, 4, 1, 4, 8]
    """
    return next((size for word, size in _NRRD_BYTES.items() if word in kind), 4)


def _require_nifti_claim(path: Path) -> None:
    with ImageOpener(str(path)) as file:
        start = file.read(nibabel.Nifti2Header.sizeof_hdr)
    kind = next((each for each in (nibabel.Nifti1Header, nibabel.Nifti2Header) if each.may_contain_header(start)), None)
    if kind is None:
        return  # nibabel says what it is
    header = kind(start[: kind.sizeof_hdr], check=False)
    voxels = math.prod(int(n) for n in header.get_data_shape())
    claim = header.get_data_offset() + voxels * header.get_data_dtype().itemsize
    require_room(
        path, claim, stored=path.stat().st_size, expansion=DEFLATE if path.name.lower().endswith(".gz") else 1.0
    )


def _stated(path: Path, sizes_um: Sequence[float | None], has_unit: bool, grid: Grid | None) -> Stated:
    """Return what a header states; a warning is logged where its numbers have no unit."""
    spacing = complete_spacing(path, sizes_um)
    if spacing is not None and not has_unit:
        warn_no_unit(path, spacing, None)
    return Stated(spacing, has_unit, grid)


def _nrrd_steps(header: dict[str, Any]) -> list[NDArray[np.float64] | None] | None:
    """Return the step along every axis, slowest first, None along one that is not in space; None if not stated."""
    if (directions := header.get("space directions")) is not None:
        rows = [np.nan if row is None else row for row in np.asarray(directions, object)]
    elif (spacings := header.get("spacings")) is not None and len(spacings) >= 2:
        rows = list(spacings)
    else:
        return None
    return [step if np.isfinite(step).all() else None for row in rows[::-1] for step in [np.asarray(row, np.float64)]]


def _nrrd_units(header: dict[str, Any], in_space: dict[int, NDArray[np.float64]]) -> list[str | None]:
    """Return the units: of the axes of space, or of the spatial axes of an array that is in no space."""
    if "space directions" in header:
        names, count = list(header.get("space units", [])), next(iter(in_space.values())).size
    else:
        named, count = list(header.get("units", []))[::-1], len(in_space)
        names = [named[i] for i in in_space] if len(named) > max(in_space) else []
    return names if len(names) == count else [None] * count


def _nrrd_grid(header: dict[str, Any], axes: NDArray[np.float64], factors: list[float]) -> Grid | None:
    space = str(header.get("space", "")).lower().removesuffix("-time")
    signs = np.asarray(_TO_RAS.get(space, (1, 1, 1)), np.float64)
    origin = header.get("space origin")
    place = None if origin is None else np.asarray(origin, np.float64) * factors * signs
    return checked_grid(axes * signs[:, None], place, _RAS if space in _TO_RAS else space)


def _require_3d(path: Path, data: np.ndarray) -> None:
    if data.ndim != 3:
        raise InputError(f"{path}: array of shape {data.shape}; one 3D volume is accepted")
