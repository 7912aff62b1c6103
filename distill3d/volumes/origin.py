"""What a written file says of itself in its header: what it holds, what it came from, and where it lies."""

from __future__ import annotations

import functools
import hashlib
import json
import os
import re
from collections.abc import Mapping
from itertools import takewhile
from pathlib import Path

import tifffile
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from distill3d.errors import InputError
from distill3d.volumes.remarks import heard
from distill3d.volumes.stack_files import is_stack_folder, split_inside
from distill3d.volumes.swc import is_tree_file

_PREFIX = "distill3d_"
_METADATA = {"zarr.json", ".zgroup", ".zarray", ".zattrs", ".zmetadata", "attributes.json"}
_BY_BLOCK = (".h5", ".hdf5", ".ims", ".npy")
_READ = 1 << 30  # bytes of such a file up to which all of it is hashed
_HEAD = 1 << 20
_NOTE = re.compile(rf"{_PREFIX}(\w+)=([^\s<]+)")  # up to a blank, or the end of an element of OME


def as_notes(**notes: str) -> dict[str, str]:
    """Return ``key=value`` pairs for a header, without those that are empty.

    >>> as_notes(holds="probability", made_from="")
    {'distill3d_holds': 'probability'}
    """
    return {f"{_PREFIX}{key}": value for key, value in notes.items() if value}


def stated_notes(path: Path) -> dict[str, str]:
    """Return what `as_notes` put into the header of a TIFF, SWC, PNG or HTML file or of a Zarr; nothing of another."""
    try:
        if is_stack_folder(path):
            return notes_of(_attributes(path))
        if path.suffix.lower() == ".png":
            with Image.open(path) as picture:
                text = "\n".join(f"{key}={value}" for key, value in picture.info.items())
        elif path.suffix.lower() == ".html":
            with path.open(encoding="utf-8", errors="replace") as file:
                text = file.readline()
        elif is_tree_file(path):
            with path.open(encoding="utf-8", errors="replace") as file:
                text = "".join(takewhile(lambda line: line.startswith("#"), file))
        else:
            with heard("tifffile"), tifffile.TiffFile(path) as tif:
                text = tif.pages.first.description
    except Exception:  # noqa: BLE001 - missing, damaged or of another format: whoever reads it says so
        return {}
    return notes_in(text)


def notes_in(text: str) -> dict[str, str]:
    """Return what `as_notes` put into a header.

    >>> notes_in("<Description>distill3d_holds=probability</Description>")
    {'holds': 'probability'}
    """
    return dict(_NOTE.findall(text))


def notes_of(attributes: Mapping[str, object]) -> dict[str, str]:
    """Return what `as_notes` put into the attributes of an array or group."""
    return {key.removeprefix(_PREFIX): str(value) for key, value in attributes.items() if key.startswith(_PREFIX)}


def note_picture(drawn: Path, path: Path, notes: Mapping[str, str]) -> None:
    """Move a PNG to its place with notes in its header; it appears there whole or not at all."""
    header = PngInfo()
    for key, value in notes.items():
        header.add_text(key, value)
    with Image.open(drawn) as picture:
        picture.load()
    picture.save(drawn, pnginfo=header, optimize=True)
    drawn.replace(path)


def origin_of(*sources: Path | str) -> str:
    """Return a hash of the content of files and of words; what has the same origin is the same result.

    Raises:
        InputError: a file cannot be read.
    """
    parts = [file_hash(source) if isinstance(source, Path) else source for source in sources]
    return f"sha256:{hashlib.sha256(' '.join(parts).encode()).hexdigest()[:32]}"


def is_taken(target: Path, origin: str) -> bool:
    """Whether there is a file that did not come from ``origin``."""
    return target.exists() and stated_notes(target).get("made_from") != origin


def file_hash(path: Path) -> str:
    """Hash a file's content; a process reads it again only after its size or time changed.

    Of a stack that is a folder, and of a file too large to be read for this, it is metadata, sizes and times that are
    hashed. The name of an array in a file counts.

    Raises:
        InputError: the file cannot be read.
    """
    file, inside = split_inside(path)
    try:
        stat = file.stat()
        content = _folder_hash(file) if is_stack_folder(file) else _file_hash(file, stat.st_size, stat.st_mtime_ns)
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from error
    return f"{content}:/{inside}" if inside else content


@functools.lru_cache(maxsize=4096)
def _file_hash(path: Path, size: int, mtime_ns: int) -> str:
    with path.open("rb") as file:
        if size <= _READ or not path.name.lower().endswith(_BY_BLOCK):
            return hashlib.file_digest(file, "sha256").hexdigest()
        head = file.read(_HEAD)
    return hashlib.sha256(f"{size} {mtime_ns} ".encode() + head).hexdigest()


def _folder_hash(folder: Path) -> str:
    """Hash the metadata of a folder of chunks, and how many these are, how large, and when the last was written."""
    digest, count, size, newest = hashlib.sha256(), 0, 0, 0
    for parent, folders, names in os.walk(folder):
        folders.sort()
        for name in sorted(names):
            path = Path(parent, name)
            if name in _METADATA:
                digest.update(f"{path.relative_to(folder).as_posix()} ".encode() + path.read_bytes())
            elif not name.endswith(".partial"):  # what a writer of chunks left when it was killed
                stat = path.stat()
                count, size, newest = count + 1, size + stat.st_size, max(newest, stat.st_mtime_ns)
    digest.update(f" {count} {size} {newest}".encode())
    return digest.hexdigest()


def _attributes(folder: Path) -> dict[str, object]:
    """Return the attributes of a Zarr of either format."""
    zarr3 = folder / "zarr.json"
    content = json.loads((zarr3 if zarr3.is_file() else folder / ".zattrs").read_bytes())
    return content["attributes"] if zarr3.is_file() else content
