"""Decoded cases on disk: written once, opened as memory maps, shared by all workers, ranks and runs.

A prepared case is a folder whose name is the hash of all it depends on; it appears whole, by a rename, or not at all.
"""

from __future__ import annotations

import functools
import hashlib
import importlib.util
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, final

import numpy as np
from filelock import FileLock
from numpy.typing import NDArray

from distill3d.config.schema import PatchConfig
from distill3d.data.base import Case, DataSource
from distill3d.errors import InputError
from distill3d.storage.whole_folder import mark_used, read_meta, sweep, write_whole
from distill3d.volumes.geometry import grid_in_words, grid_of_words
from distill3d.volumes.intensity import intensity_range, rescale
from distill3d.volumes.swc import read_swc, write_swc
from distill3d.volumes.tree import Tree, within

FORMAT = 1  # of the folder; older ones are left alone and never read


@final
class PreparedCase:
    """One prepared case. Arrays are opened on first use and read-only; a copy sent to another process opens its own.

    Args:
        folder: written by `prepare`.
        skeleton_files: name and file of every skeleton, see `distill3d.data.centerline`.

    Raises:
        InputError: the folder is not a whole prepared case.
    """

    def __init__(self, folder: Path, skeleton_files: tuple[tuple[str, Path], ...] = ()) -> None:
        meta = read_meta(folder, version=FORMAT)
        if meta is None:
            raise InputError(f"{folder}: not a complete prepared case; accepted: a folder written by `prepare`")
        self.folder, self.skeleton_files = folder, skeleton_files
        self.name: str = meta["name"]
        z, y, x = meta["shape_zyx"]
        self.shape: tuple[int, int, int] = (z, y, x)
        z, y, x = meta["spacing_um"]
        self.spacing_um: tuple[float, float, float] = (z, y, x)
        self.grid = grid_of_words(meta["grid"])
        self.low: float = meta["low"]
        self.high: float = meta["high"]
        self.all_known: bool = meta["all_known"]
        self.has_tree: bool = meta["has_tree"]

    def __repr__(self) -> str:
        return f"PreparedCase({self.name!r}, {self.shape})"

    def __reduce__(self) -> tuple[type[PreparedCase], tuple[Path, tuple[tuple[str, Path], ...]]]:
        # Pickled memory maps would be whole copies.
        return PreparedCase, (self.folder, self.skeleton_files)

    def with_skeletons(self, files: Mapping[str, Path]) -> PreparedCase:
        """Return the case with skeletons, name -> file."""
        return PreparedCase(self.folder, tuple(files.items()))

    @functools.cached_property
    def raw(self) -> NDArray[np.number]:
        """Intensities as they came [Z, Y, X], uint8, uint16 or float32; `low` and `high` scale them."""
        return _open(self.folder / "image.npy")

    @property
    def image(self) -> NDArray[np.float32]:
        """The whole volume in [0, 1], float32 [Z, Y, X]; computed at every access, so keep it while you need it."""
        return rescale(self.raw, self.low, self.high)

    @functools.cached_property
    def mask(self) -> NDArray[np.bool_]:
        """Gold [Z, Y, X]."""
        return _open(self.folder / "mask.npy")

    @functools.cached_property
    def known(self) -> NDArray[np.bool_]:
        """Where somebody labelled [Z, Y, X]; takes no memory where that is everywhere."""
        return np.broadcast_to(np.True_, self.shape) if self.all_known else _open(self.folder / "known.npy")

    @functools.cached_property
    def foreground(self) -> NDArray[np.int64]:
        """Flat indices of the gold voxels, ascending."""
        return _open(self.folder / "foreground.npy")

    @functools.cached_property
    def labelled(self) -> NDArray[np.int64] | None:
        """Flat indices of the known voxels, ascending; None where all are known."""
        return None if self.all_known else _open(self.folder / "labelled.npy")

    @functools.cached_property
    def skeletons(self) -> dict[str, NDArray[np.bool_]]:
        """Centerlines of gold [Z, Y, X] by name, those that `with_skeletons` named."""
        return {name: _open(file) for name, file in self.skeleton_files}

    def tree(self) -> Tree | None:
        """Return what of the gold tree lies in the volume, in um; None for a case that only has a mask."""
        return read_swc(self.folder / "tree.swc") if self.has_tree else None


_NPY_HEADER = 128


def _open(path: Path) -> NDArray[Any]:
    # An empty file cannot be mapped.
    return np.load(path, mmap_mode="r" if path.stat().st_size > _NPY_HEADER else None)


def prepare(source: DataSource, name: str, config: PatchConfig) -> PreparedCase:
    """Return the prepared case, writing it first if it is not there; safe with several processes at once.

    Args:
        source: where the case comes from; its ``cache`` is the folder that holds ``prepared/``.
        name: of the case.
        config: holds the percentiles.

    Raises:
        InputError: the case cannot be used, or the cache cannot be written.
    """
    folder = source.cache / "prepared" / _address(source, name, config)
    return PreparedCase(written_once(folder, lambda target: _write(target, source.load(name), config)))


def written_once(folder: Path, write: Callable[[Path], Mapping[str, Any]]) -> Path:
    """Return a folder of the cache, filled first if it is not there: whole or not at all, also with several processes.

    Args:
        folder: its name is the hash of all its content depends on.
        write: fills the folder it is given and returns the metadata to keep in it.

    Raises:
        InputError: the cache cannot be written.
    """
    if read_meta(folder, version=FORMAT) is not None:
        mark_used(folder)
        return folder
    root = folder.parent
    try:
        root.mkdir(parents=True, exist_ok=True)
        # Others wait instead of doing the same work; the rename alone would be safe too.
        with FileLock(root / f"{folder.name}.lock"):
            if read_meta(folder, version=FORMAT) is None:
                sweep(root)
                write_whole(folder, write, version=FORMAT)
    except OSError as error:
        raise InputError(
            f"{root}: cannot be written ({error.strerror}); accepted: cache=PATH of a folder that can"
        ) from error
    return folder


@functools.cache
def code_hash(*names: str) -> str:
    """Hash the source text of modules and packages, so that old work is never taken for that of new code."""
    digest = hashlib.sha256()
    for name in names:
        spec = importlib.util.find_spec(name)  # which imports no module that nobody needs yet
        folders = [] if spec is None else spec.submodule_search_locations or []
        inside = sorted(path for folder in folders for path in Path(folder).rglob("*.py"))
        files = inside or ([Path(spec.origin)] if spec and spec.origin else [])
        for path in files:
            digest.update(path.read_bytes())
        if not files:
            digest.update(name.encode())
    return digest.hexdigest()


def _address(source: DataSource, name: str, config: PatchConfig) -> str:
    code = code_hash(__name__, "distill3d.volumes.intensity")
    content = [source.key(name), name, config.low_percentile, config.high_percentile, FORMAT, code]
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()[:32]


def _write(target: Path, case: Case, config: PatchConfig) -> dict[str, Any]:
    """Write a case's arrays and tree; return its metadata."""
    data, shape = case.volume.data, case.volume.data.shape
    if case.mask.shape != shape or case.known.shape != shape:
        raise InputError(
            f"{case.name}: mask {case.mask.shape} or known {case.known.shape} is not of the volume's {shape}"
        )
    all_known = bool(case.known.all())
    mask = case.mask & case.known
    arrays: dict[str, NDArray[Any]] = {"image": data, "mask": mask, "foreground": np.flatnonzero(mask)}
    if not all_known:
        arrays |= {"known": case.known, "labelled": np.flatnonzero(case.known)}
    for name, array in arrays.items():
        np.save(target / f"{name}.npy", array, allow_pickle=False)
    if case.tree is not None:
        write_swc(target / "tree.swc", within(case.tree, shape, case.volume.spacing_um))
    low, high = intensity_range(data, *config.percentiles)
    return {
        "name": case.name,
        "shape_zyx": shape,
        "spacing_um": case.volume.spacing_um,
        "grid": grid_in_words(case.volume.stated.grid),
        "low": low,
        "high": high,
        "all_known": all_known,
        "has_tree": case.tree is not None,
    }
