"""Open arrays of N5, whose axes are named from the fastest on; read by tensorstore, which is optional."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, final

import numpy as np

from distill3d.errors import InputError
from distill3d.volumes.blocks import StoredBlocks, axes_by_count
from distill3d.volumes.geometry import Stated, complete_spacing, um_per_unit, warn_no_unit

_ABOUT = "attributes.json"
_SHOWN = 5


def open_n5(path: Path, inside: str, *, channel: int) -> tuple[StoredBlocks, Stated]:
    """Open an array of a container, or the finest level ``s0`` of a group of such.

    Args:
        path: folder of the container.
        inside: of the array or group; empty is the only one there is.
        channel: from 0, along the slowest axis of four.

    Returns:
        The array, and its voxel size from ``pixelResolution`` or ``resolution`` times ``downsamplingFactors``, its own
        or those of the groups around it.

    Raises:
        InputError: tensorstore is not installed, or no such array or channel.
    """
    chosen = _inside(path, inside)
    name = Path(f"{path}:/{chosen}" if chosen else path)
    folder = path / chosen if "dimensions" in _about(path / chosen) else path / chosen / "s0"
    try:
        array = _Array(folder)
        sizes, has_unit = _sizes(name, path, folder)
    except InputError:
        raise
    except Exception as error:
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        raise InputError(f"{name}: metadata that cannot be used ({reason:.120}); an array of N5 is expected") from error
    blocks = StoredBlocks(name, array, axes_by_count(name, array.shape), chunks=array.chunks, channel=channel)
    spacing = complete_spacing(name, sizes) if sizes else None
    if spacing and not has_unit:
        warn_no_unit(name, spacing, None)
    return blocks, Stated(spacing, has_unit)


@final
class _Array:
    """An array with its axes reversed, so that the slowest one comes first."""

    def __init__(self, folder: Path) -> None:
        try:
            import tensorstore  # noqa: PLC0415 - optional
        except ImportError as error:
            raise InputError(f"{folder}: N5 needs tensorstore; accepted: pip install 'distill3d[n5]'") from error
        spec = {"driver": "n5", "kvstore": {"driver": "file", "path": f"{folder.resolve()}/"}}
        self._store = tensorstore.open(spec, open=True, read=True).result()
        self.shape: tuple[int, ...] = tuple(self._store.shape[::-1])
        self.dtype: np.dtype[Any] = np.dtype(self._store.dtype.numpy_dtype)
        self.chunks = [int(n or 1) for n in (self._store.chunk_layout.read_chunk.shape or ())[::-1]] or None

    def __getitem__(self, key: tuple[Any, ...], /) -> np.ndarray:
        parts = (slice(*p.indices(n)) if isinstance(p, slice) else p for p, n in zip(key, self.shape, strict=True))
        return self._store[tuple(parts)[::-1]].read().result().T


def _inside(path: Path, inside: str) -> str:
    """Return the array, or the group of levels, that is meant."""
    if ".." in inside.split("/"):
        raise InputError(f"{path}:/{inside}: leads out of its container; accepted: the name of an array in it")
    known = list(_stacks(path / inside))
    if len(known) == 1:
        return known[0].relative_to(path).as_posix().removeprefix(".")
    shown = ", ".join(f"/{each.relative_to(path).as_posix()}" for each in known[:_SHOWN])
    holds = f"{len(known)} arrays ({shown}{', ...' if len(known) > _SHOWN else ''})" if known else "no array"
    raise InputError(f"{path}: holds {holds}{inside and f' in {inside}'}; accepted: N5 with one, or {path}:/NAME")


def _stacks(folder: Path) -> Iterator[Path]:
    """Yield arrays, and groups of levels of one, in a folder and below."""
    if "dimensions" in _about(folder) or "dimensions" in _about(folder / "s0"):
        yield folder
    elif folder.is_dir():
        for each in sorted(path for path in folder.iterdir() if path.is_dir()):
            yield from _stacks(each)


def _about(folder: Path) -> Mapping[str, Any]:
    try:
        content = json.loads((folder / _ABOUT).read_bytes())
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise InputError(f"{folder / _ABOUT}: cannot be read ({error!s:.80}); JSON as N5 has it is expected") from error
    return content if isinstance(content, dict) else {}


def _sizes(name: Path, path: Path, folder: Path) -> tuple[list[float], bool]:
    """Return the sizes ZYX of a voxel and whether they have a unit; none where nothing states them."""
    around = [each for each in (folder, *folder.parents) if each == path or path in each.parents]
    abouts = [_about(each) for each in around]
    stated = next((about for about in abouts if "pixelResolution" in about or "resolution" in about), None)
    if stated is None:
        return [], True
    resolution = stated.get("pixelResolution", stated.get("resolution"))
    units = stated.get("units")
    if isinstance(resolution, dict):
        units, resolution = resolution.get("unit"), resolution.get("dimensions")
    unit = um_per_unit(units[0] if isinstance(units, list) and units else units)
    factors = abouts[0].get("downsamplingFactors", [1, 1, 1])
    if not isinstance(resolution, list) or len(resolution) != 3 or len(factors) != 3:
        raise InputError(f"{name}: resolution {resolution!r} x {factors!r}; three numbers each are accepted")
    sizes = [float(size) * float(factor) * (unit or 1.0) for size, factor in zip(resolution, factors, strict=True)]
    return sizes[::-1], unit is not None
