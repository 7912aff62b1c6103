"""Arrays on disk with whatever axes, seen as ZYX: one channel of them, read by part."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol, final

import numpy as np

from distill3d.errors import InputError
from distill3d.volumes.memory import require_room

_LOG = logging.getLogger(__name__)
_AT_ONCE = 64 << 20  # bytes of a slab
_OF_NUMBERS = "buif"
_AXES = {2: "yx", 3: "zyx", 4: "czyx", 5: "tczyx"}
_MOST_CHANNELS = 4  # along a last axis that is no x


def axes_by_count(path: Path, shape: Sequence[int]) -> str:
    """Return a letter for each axis of an array whose file names none; empty where they are too few or too many.

    Raises:
        InputError: channels seem to be the last axis.
    """
    if len(shape) > 3 and shape[-1] <= _MOST_CHANNELS < shape[-4]:
        raise InputError(f"{path}: shape {tuple(shape)}, where channels seem to come last; accepted: c, z, y, x")
    return _AXES.get(len(shape), "")


class Stored(Protocol):
    """An array of a library of files, with its own axes."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Along its own axes."""
        ...

    @property
    def dtype(self) -> np.dtype[Any]:
        """Of NumPy."""
        ...

    def __getitem__(self, key: Any, /) -> Any:  # noqa: ANN401 - the libraries' own
        """Read a part, by a slice or a number for each axis."""
        ...


@final
class StoredBlocks:
    """One channel of an array on disk, as `distill3d.volumes.lazy.Blocks`.

    Args:
        path: names it in errors.
        array: what is read.
        axes: a letter for each of its axes: z, y, x, c for channels, t for time, of which one point is accepted.
        chunks: what is read at once, along its own axes; None where that is any part.
        channel: that is read, from 0.
        channels: their names, where there are such.
        blame: finds out which file of it cannot be read, from the part that was asked for.

    Raises:
        InputError: other axes, several time points, no such channel, values that are no numbers, an empty axis, or
            parts that are larger than there is room for.
    """

    def __init__(
        self,
        path: Path,
        array: Stored,
        axes: str,
        *,
        chunks: Sequence[int] | None = None,
        channel: int = 0,
        channels: Sequence[str] = (),
        blame: Callable[[tuple[Any, ...]], str] | None = None,
    ) -> None:
        stored = tuple(int(n) for n in array.shape)
        _require_axes(path, axes, stored)
        if array.dtype.kind not in _OF_NUMBERS:
            raise InputError(f"{path}: values of type {array.dtype}; whole or real numbers are accepted")
        self._path, self._array, self._axes, self._blame = path, array, axes, blame
        self._fixed = {"t": 0}
        if "c" in axes:
            self._fixed["c"] = require_channel(path, stored[axes.index("c")], channel, channels)
        else:
            require_channel(path, 1, channel)
        self.dtype: np.dtype[Any] = array.dtype
        self.shape: tuple[int, int, int] = self._zyx(stored)
        self.chunks: tuple[int, int, int] | None = None if chunks is None else self._zyx(chunks)
        if chunks is not None:
            require_room(path, math.prod(chunks) * self.dtype.itemsize, claims="a chunk of it claims")

    def __getitem__(self, key: tuple[slice, slice, slice], /) -> np.ndarray:
        part = dict(zip("zyx", key, strict=True))
        own = tuple(self._fixed[axis] if axis in self._fixed else part[axis] for axis in self._axes)
        try:
            block = np.asarray(self._array[own])
        except Exception as error:  # of memory too: a chunk may claim any size
            reason = " ".join(f"{type(error).__name__}: {error}".split())
            where = self._blame(own) if self._blame else str(self._path)
            raise InputError(
                f"{where}: damaged or truncated ({reason:.120}); what was written there is expected"
            ) from error
        require_finite(self._path, block)
        left = [axis for axis in self._axes if axis not in self._fixed]
        block = block.transpose([left.index(axis) for axis in "zyx" if axis in left])
        return block if "z" in left else block[None][part["z"]]

    def whole(self) -> np.ndarray:
        """Read all of it, in an array of its own.

        Raises:
            InputError: a part cannot be read, or there is no room for it.
        """
        n_bytes = math.prod(self.shape) * self.dtype.itemsize
        require_room(self._path, n_bytes)
        data = np.empty(self.shape, self.dtype)
        thick = self.chunks[0] if self.chunks else 1
        slabs = max(1, math.floor(_AT_ONCE / (n_bytes / self.shape[0] * thick))) * thick
        for z in range(0, self.shape[0], slabs):
            data[z : z + slabs] = self[z : z + slabs, :, :]
        return data

    def _zyx(self, sizes: Sequence[int]) -> tuple[int, int, int]:
        z, y, x = (int(sizes[self._axes.index(axis)]) if axis in self._axes else 1 for axis in "zyx")
        return z, y, x


def require_channel(path: Path, count: int, channel: int, names: Sequence[str] = ()) -> int:
    """Return a channel that a file has; a warning is logged where there are others.

    Raises:
        InputError: it has no such channel.
    """
    if not 0 <= channel < count:
        named = f" ({', '.join(names)})" if names else ""
        raise InputError(f"{path}: channel {channel} asked for; this file has channels 0..{count - 1}{named}")
    if count > 1:
        _LOG.warning("%s: has %d channels (or is RGB); channel %d is read", path, count, channel)
    return channel


def require_finite(path: Path, part: np.ndarray) -> None:
    """Refuse voxels that are no number, from which a network or a percentile makes nothing but such.

    Raises:
        InputError: the part has one.
    """
    if part.dtype.kind == "f" and not np.isfinite(part).all():
        raise InputError(f"{path}: holds NaN or infinite voxels; finite numbers are accepted")


def _require_axes(path: Path, axes: str, shape: tuple[int, ...]) -> None:
    if len(axes) != len(shape) or len(set(axes)) < len(axes) or not set("yx") <= set(axes) <= set("tczyx"):
        raise InputError(
            f"{path}: array of shape {shape} with axes {' '.join(axes) or 'unknown'}; accepted: one 3D volume "
            "(z, y, x), channels (c) and one time point (t), each axis once"
        )
    if min(shape) < 1:
        raise InputError(f"{path}: volume of shape {shape}; no axis may be empty")
    if "t" in axes and shape[axes.index("t")] != 1:
        raise InputError(f"{path}: {shape[axes.index('t')]} time points found; one 3D volume is accepted")
