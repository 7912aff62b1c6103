"""Read Vaa3D's stacks, .v3dpbd and .v3draw, and refuse truncated ones; neither format states a voxel size."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from v3dpy.loaders import PBD, Raw

from distill3d.errors import InputError
from distill3d.volumes.tiff import Spacing, pick_channel

_HEADER_BYTES = 43
_MAGIC = b"v3d_volume_pkbitdf_encod"


def read_pbd(path: Path, channel: int) -> tuple[np.ndarray, Spacing | None]:
    """Read one channel of a .v3dpbd file as [Z, Y, X]; the spacing is None.

    Raises:
        InputError: not such a file, truncated or damaged, or no such channel.
    """
    _require_whole(path)
    return pick_channel(path, PBD().load(str(path)), 0, channel), None


def read_raw(path: Path, channel: int) -> tuple[np.ndarray, Spacing | None]:
    """Read one channel of a .v3draw file as [Z, Y, X]; the spacing is None.

    Raises:
        InputError: not such a file, truncated or damaged, several time points, or no such channel.
    """
    try:
        data = Raw().load(str(path))
    except AssertionError:  # the sizes do not match: older Vaa3D wrote them with two bytes each
        data = Raw(sz2byte=True).load(str(path))
    if data.ndim == 5:
        if data.shape[0] != 1:
            raise InputError(f"{path}: {data.shape[0]} time points found; one 3D volume is accepted")
        data = data[0]
    return np.require(pick_channel(path, data, 0, channel), requirements="W"), None  # torch warns of read-only arrays


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
