"""Open OME-Zarr images: 0.4 on Zarr 2, 0.5 on Zarr 3."""

from __future__ import annotations

import asyncio
import functools
import itertools
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, final

import numcodecs
import zarr
from zarr.abc.store import ByteRequest
from zarr.codecs import BloscCodec
from zarr.core.buffer import Buffer, BufferPrototype
from zarr.core.sync import sync
from zarr.storage import LocalStore

from distill3d.errors import InputError
from distill3d.volumes.blocks import StoredBlocks
from distill3d.volumes.geometry import Stated, complete_spacing, grid_of_words, um_per_unit, warn_no_unit
from distill3d.volumes.origin import notes_of

_WANTED = "accepted: OME-Zarr 0.4 or 0.5, a group with multiscales in its attributes"
_OF_TYPE = {"channel": "c", "time": "t"}
_BEFORE_0_3 = [*"tczyx"]  # these versions name no axes: always five
_BLOSC_HEADER = 16
_METADATA = (".json", ".zarray", ".zattrs", ".zgroup", ".zmetadata")


def open_ome_zarr(path: Path, inside: str, *, channel: int) -> tuple[StoredBlocks, Stated]:
    """Open one channel of an image, its finest level, and what its metadata state.

    Source: Moore et al. 2023, OME-Zarr; specifications 0.4 and 0.5 of ngff.openmicroscopy.org.

    Args:
        path: folder of the store.
        inside: of an image in it; empty is the store itself, or the only image of one that holds a series.
        channel: from 0.

    Returns:
        The array, and what is stated of its voxels.

    Raises:
        InputError: no such image, metadata that cannot be used, or no such channel.
    """
    name = Path(f"{path}:/{inside}" if inside else path)
    try:
        with warnings.catch_warnings(action="ignore"):  # of what is no standard yet
            image, attributes = _image(_Store(path, read_only=True), inside, name)
            return _open_finest(path, name, image, attributes, channel=channel)
    except (InputError, MemoryError):
        raise
    except Exception as error:
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        raise InputError(f"{name}: metadata that cannot be used ({reason:.120}); {_WANTED}") from error


@final
class _Store(LocalStore):
    """A folder; chunks that Blosc packed are checked to be whole, since its decoder reads beyond the end of others."""

    blosc = False

    async def get(
        self, key: str, prototype: BufferPrototype | None = None, byte_range: ByteRequest | None = None
    ) -> Buffer | None:
        value = await super().get(key, prototype, byte_range)
        if value is not None and self.blosc and byte_range is None and not key.endswith(_METADATA):
            header = value.as_numpy_array()[:_BLOSC_HEADER].tobytes()
            if (claim := int.from_bytes(header[12:], "little")) != len(value):
                raise ValueError(f"{len(value)} bytes found, {claim} expected")
        return value


def _image(store: LocalStore, inside: str, name: Path) -> tuple[zarr.Group, Mapping[str, Any]]:
    """Return a group that is an image, and its OME metadata."""
    try:
        node = zarr.open(store=store, path=inside or None, mode="r")
    except FileNotFoundError as error:
        raise InputError(f"{name}: no Zarr group; {_WANTED}") from error
    if not isinstance(node, zarr.Group):
        raise InputError(f"{name}: an array without multiscales; {_WANTED}")
    if "multiscales" in _ome(node):
        return node, _ome(node)
    images = sorted(key for key, group in node.groups() if "multiscales" in _ome(group))
    first = "/".join(filter(None, [inside, *images[:1]]))
    if len(images) == 1:
        return _image(store, first, name)
    if images:
        raise InputError(f"{name}: holds {len(images)} images; accepted: one, such as {store.root}:/{first}")
    raise InputError(f"{name}: no multiscales; {_WANTED}")


def _ome(group: zarr.Group) -> Mapping[str, Any]:
    attributes: Any = group.attrs.asdict()
    return attributes.get("ome", attributes)


def _open_finest(
    path: Path, name: Path, image: zarr.Group, attributes: Mapping[str, Any], *, channel: int
) -> tuple[StoredBlocks, Stated]:
    scales = attributes["multiscales"][0]
    if not (datasets := scales["datasets"]):
        raise InputError(f"{name}: its multiscales name no array; {_WANTED}")
    dataset = datasets[0]
    array = image.get(str(dataset["path"]))
    if not isinstance(array, zarr.Array):
        raise InputError(f"{name}: no array {dataset['path']!r}, which its multiscales name; {_WANTED}")
    if isinstance(store := array.store, _Store):
        store.blosc = _ends_in_blosc(array)
    named = scales.get("axes") or _BEFORE_0_3
    axes = "".join(_letter(axis, name) for axis in named)
    channels = [str(each.get("label", "")) for each in (attributes.get("omero") or {}).get("channels", [])]
    blocks = StoredBlocks(
        name,
        array,
        axes,
        chunks=array.chunks,
        channel=channel,
        channels=channels,
        blame=functools.partial(_unreadable, path, array),
    )
    sizes = [1.0] * len(axes)
    for each in (scales, dataset):
        factors = _factors(each.get("coordinateTransformations"), len(axes), name)
        sizes = [size * factor for size, factor in zip(sizes, factors, strict=True)]
    units = {letter: axis.get("unit") for letter, axis in zip(axes, named, strict=True) if isinstance(axis, dict)}
    grid = grid_of_words(notes_of(image.attrs.asdict()))
    spacing, has_unit = _spacing(name, dict(zip(axes, sizes, strict=True)), units)
    return blocks, Stated(spacing, has_unit, grid)


def _letter(axis: object, name: Path) -> str:
    """Return which axis metadata mean: a name, or from 0.4 on a mapping with name and type."""
    kind, letter = (axis.get("type"), str(axis.get("name"))) if isinstance(axis, dict) else (None, str(axis))
    letter = _OF_TYPE.get(str(kind), letter.lower())
    if letter not in {*"tczyx"}:
        raise InputError(f"{name}: unknown axis {letter!r}; accepted: z y x, channels (c) and one time point (t)")
    return letter


def _factors(transformations: object, count: int, name: Path) -> list[float]:
    """Return the scale along every axis, 1 where none is stated."""
    steps = transformations if isinstance(transformations, list) else []
    scale = next((step["scale"] for step in steps if step["type"] == "scale" and "scale" in step), [1.0] * count)
    if len(scale) != count:
        raise InputError(f"{name}: scale of {len(scale)} numbers for {count} axes; accepted: one for each")
    return [float(factor) for factor in scale]


def _spacing(
    name: Path, sizes: Mapping[str, float], units: Mapping[str, object]
) -> tuple[tuple[float, float, float] | None, bool]:
    """Return the voxel size in um, and whether it has a unit; sizes of 1 without one state nothing."""
    in_um = [um_per_unit(units.get(axis)) for axis in "zyx"]
    numbers = [sizes.get(axis) for axis in "zyx"]
    if any(in_um):
        return complete_spacing(name, [n and unit and n * unit for n, unit in zip(numbers, in_um, strict=True)]), True
    if all(number in {None, 1.0} for number in numbers):
        return None, False
    warn_no_unit(name, numbers, units.get("x"))
    return complete_spacing(name, numbers), False


def _ends_in_blosc(array: zarr.Array) -> bool:
    metadata = array.metadata
    last = metadata.compressor if metadata.zarr_format == 2 else metadata.codecs[-1]
    return isinstance(last, numcodecs.Blosc | BloscCodec)


def _unreadable(path: Path, array: zarr.Array, key: Sequence[Any]) -> str:
    """Return the file of the first chunk, of those that a part lies in, that cannot be read."""
    sizes = array.shards or array.chunks
    parts = [part if isinstance(part, slice) else slice(part, part + 1) for part in key]
    ranges = [part.indices(n) for part, n in zip(parts, array.shape, strict=True)]
    grid = (range(start // size, -(-stop // size)) for (start, stop, _), size in zip(ranges, sizes, strict=True))
    sync(_finished())
    for chunk in itertools.product(*grid):
        try:
            array[tuple(slice(i * size, (i + 1) * size) for i, size in zip(chunk, sizes, strict=True))]
        except Exception:  # noqa: BLE001 - this is the question
            sync(_finished())
            return str(path / array.path / array.metadata.encode_chunk_key(chunk))
    return str(path)


async def _finished() -> None:
    """Wait for the reads beside one that failed: Zarr leaves them, and asyncio complains of them at exit."""
    others = asyncio.all_tasks() - {asyncio.current_task()}
    await asyncio.gather(*others, return_exceptions=True)
