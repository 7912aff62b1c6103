"""Read Vaa3D's stacks, .v3dpbd and .v3draw, and refuse truncated ones; neither format states a voxel size."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
from v3dpy.loaders import PBD

from distill3d.errors import InputError
from distill3d.volumes.geometry import Stated
from distill3d.volumes.memory import require_room
from distill3d.volumes.tiff import pick_channel

_HEADER_BYTES = 43
_MAGIC = b"v3d_volume_pkbitdf_encod"
_RAW_AXES = {b"raw_image_stack_by_hpeng": 4, b"raw5image_stack_by_hpeng": 5}
_RAW_SIZES_AT = 27
_RAW_TYPES = {1: "u1", 2: "u2", 4: "f4"}
_BYTE_ORDER = {b"L": "<", b"B": ">"}


def read_pbd(path: Path, channel: int) -> tuple[np.ndarray, Stated]:
    """Read one channel of a .v3dpbd file as [Z, Y, X].

    Raises:
        InputError: not such a file, truncated or damaged, or no such channel.
    """
    _require_whole(path)
    return pick_channel(path, PBD().load(str(path)), 0, channel), Stated()


def read_raw(path: Path, channel: int) -> tuple[np.ndarray, Stated]:
    """Read one channel of a .v3draw file as [Z, Y, X].

    Sizes have four bytes each, in files of older versions two; the one that gives the file's length is right.

    Raises:
        InputError: not such a file, truncated or damaged, several time points, or no such channel.
    """
    length = path.stat().st_size
    with path.open("rb") as file:
        header = file.read(_RAW_SIZES_AT + 5 * 4)
    n_axes, order = _RAW_AXES.get(header[:24]), _BYTE_ORDER.get(header[24:25])
    voxel = (
        None if order is None else _RAW_TYPES.get(int(np.frombuffer(header[25:27].ljust(2, b"\0"), order + "u2")[0]))
    )
    if n_axes is None or order is None or voxel is None:
        raise InputError(f"{path}: no v3draw header; a file of 8 or 16 bits or of floats, by Vaa3D, is expected")
    for width in (4, 2):
        start = _RAW_SIZES_AT + n_axes * width
        sizes = np.frombuffer(header[_RAW_SIZES_AT:start].ljust(n_axes * width, b"\0"), f"{order}u{width}").tolist()
        if start + math.prod(sizes) * int(voxel[1]) == length:
            break
    else:
        raise InputError(f"{path}: truncated or damaged; {length} bytes are not those of its header's sizes")
    require_room(path, length - start)
    data = np.fromfile(path, order + voxel, offset=start).reshape(sizes[::-1])
    if data.ndim == 5:
        if data.shape[0] != 1:
            raise InputError(f"{path}: {data.shape[0]} time points found; one 3D volume is accepted")
        data = data[0]
    return pick_channel(path, data, 0, channel), Stated()


def _require_whole(path: Path) -> None:
    """Walk the run lengths of a v3dpbd file: its decoder returns zeros for what is missing, and checks no bound.

    Source: Vaa3D, neuron_annotator/utility/ImageLoaderBasic.cpp (the format has no other description).
    """
    content = path.read_bytes()
    if len(content) < _HEADER_BYTES or not content.startswith(_MAGIC):
        raise InputError(f"{path}: no v3dpbd header; a file written by Vaa3D is expected")
    order = "little" if content[24:25] == b"L" else "big"
    width = int.from_bytes(content[25:27], order)
    if width not in _RUNS:
        raise InputError(f"{path}: v3dpbd data type {width}; 1 (8 bit) and 2 (16 bit) are accepted")
    sizes = [int.from_bytes(content[27 + 4 * i : 31 + 4 * i], order) for i in range(4)]
    steps, values = _RUNS[width]
    position, decoded = _HEADER_BYTES, 0
    while position < len(content):
        code = content[position]
        position += steps[code]
        decoded += values[code]
    expected = int(np.prod(sizes, dtype=object))
    if position != len(content) or decoded != expected:
        raise InputError(f"{path}: truncated or damaged; {decoded} voxels found, {expected} expected")
    require_room(path, width * decoded)


def _runs(width: int) -> tuple[list[int], list[int]]:
    """Return bytes read and values written by each of the 256 run codes."""
    if width == 1:
        runs = [
            (c + 2, c + 1) if c < 33 else ((c - 33) // 4 + 2, c - 32) if c < 128 else (2, c - 127) for c in range(256)
        ]
    else:
        packed = [(80, 31, 3), (183, 79, 4), (223, 182, 5)]  # codes below, subtracted, bits a value
        runs = [(2 * c + 3, c + 1) for c in range(32)]
        for c in range(32, 223):
            _, gap, bits = next(row for row in packed if c < row[0])
            runs.append((((c - gap) * bits - 1) // 8 + 2, c - gap))
        runs += [(3, c - 222) for c in range(223, 256)]
    steps, values = zip(*runs, strict=True)
    return list(steps), list(values)


_RUNS = {width: _runs(width) for width in (1, 2)}
