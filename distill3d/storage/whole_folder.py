"""Folders that appear whole, by a rename, or not at all, so that nobody reads a half-written one. It knows no data.

A killed writer leaves a temporary folder behind, which the next one sweeps away after a day.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

META = "meta.json"
_DAY = 86_400.0


def read_meta(folder: Path, *, version: int) -> dict[str, Any] | None:
    """Return what the folder says of itself, None if a file is missing, cut short, or of another version."""
    try:
        meta = json.loads((folder / META).read_text(encoding="utf-8"))
        sizes = {name: (folder / name).stat().st_size for name in meta["files"]}
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return meta if meta["format"] == version and sizes == meta["files"] else None


def write_whole(folder: Path, write: Callable[[Path], Mapping[str, Any]], *, version: int) -> None:
    """Let ``write`` fill a temporary folder beside ``folder``, then put it in place by one rename.

    Args:
        folder: to be made; a broken one that is there is replaced, a whole one is kept.
        write: puts files into the folder it is given, and returns what the folder shall say of itself.
        version: of the folder's format, see `read_meta`.
    """
    partial = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", suffix=".partial", dir=folder.parent))
    try:
        result = write(partial)
        meta = {**result, "format": version, "files": {path.name: path.stat().st_size for path in partial.iterdir()}}
        (partial / META).write_text(json.dumps(meta, indent=1), encoding="utf-8")
        partial.chmod(0o755)  # mkdtemp's 0o700 would shut out others who share the cache
        if folder.exists() and read_meta(folder, version=version) is None:
            shutil.rmtree(folder)
        try:
            partial.rename(folder)
        except OSError:
            if read_meta(folder, version=version) is None:  # not that another process was first
                raise
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def sweep(root: Path) -> None:
    """Delete what processes killed long ago left behind."""
    for partial in root.glob(".*.partial"):
        try:
            old = time.time() - partial.stat().st_mtime > _DAY
        except OSError:  # its owner was faster
            continue
        if old:
            shutil.rmtree(partial, ignore_errors=True)


def mark_used(folder: Path) -> None:
    """Note that a folder is of use, for `prune`."""
    with contextlib.suppress(OSError):  # of a cache that may only be read
        os.utime(folder)


def prune(root: Path, *, unused_days: float) -> tuple[int, int]:
    """Delete entries that nobody used for so many days; return how many there were and their bytes."""
    sweep(root)
    count = size = 0
    for folder in root.glob("*/"):
        try:
            if time.time() - folder.stat().st_mtime < unused_days * _DAY or not (folder / META).is_file():
                continue
            inside = sum(path.stat().st_size for path in folder.iterdir())
        except FileNotFoundError:  # another process prunes too
            continue
        shutil.rmtree(folder, ignore_errors=True)
        count, size = count + 1, size + inside
    return count, size
