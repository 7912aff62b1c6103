"""Which names are those of stacks, and what of a folder is one."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

from distill3d.errors import InputError

FOLDER_SUFFIXES: tuple[str, ...] = (".ome.zarr", ".zarr", ".n5")  # of stacks that are folders
FILE_SUFFIXES: tuple[str, ...] = (
    ".tif", ".tiff", ".ome.tif", ".ome.tiff", ".v3dpbd", ".v3draw", ".nrrd", ".nhdr", ".nii.gz", ".nii", ".npy", ".h5",
    ".hdf5", ".ims",
)  # fmt: skip
VOLUME_SUFFIXES: tuple[str, ...] = (*FILE_SUFFIXES, *FOLDER_SUFFIXES)
# Stacks of microscopes and of other programs: nobody here reads them, and they are named where they lie.
FOREIGN_SUFFIXES: tuple[str, ...] = (
    ".am", ".czi", ".dcm", ".hdr", ".ics", ".ids", ".img", ".jp2", ".klb", ".lif", ".lsm", ".mha", ".mhd", ".mrc",
    ".nd2", ".ndpi", ".oib", ".oif", ".oir", ".sld", ".svs", ".vsi",
)  # fmt: skip
READ_AS = f"accepted are {' '.join(VOLUME_SUFFIXES)} (Fiji saves others as .tif)"
_INSIDE = re.compile(r"(.*?\.(?:h5|hdf5|zarr|n5)):/*(.*)", re.IGNORECASE | re.DOTALL)


def split_inside(path: str | os.PathLike[str]) -> tuple[Path, str]:
    """Take apart the name of an array in a file, or in a folder, that may hold several.

    >>> split_inside("raw/cell.h5:/t0/raw"), split_inside("cell.tif")
    ((PosixPath('raw/cell.h5'), 't0/raw'), (PosixPath('cell.tif'), ''))
    """
    match = _INSIDE.fullmatch(os.fspath(path))
    return (Path(match[1]), match[2].strip("/")) if match else (Path(path), "")


def is_stack(path: str | os.PathLike[str]) -> bool:
    """Whether there is such a file, or such a folder where the format is one; it is not opened."""
    file, _ = split_inside(path)
    return is_stack_folder(file) or (file.is_file() and not names_folder(file))


def is_stack_folder(path: Path) -> bool:
    """Whether a folder is one stack."""
    return names_folder(path) and path.is_dir()


def names_folder(path: Path) -> bool:
    """Whether a name is that of a stack which is a folder."""
    return path.name.lower().endswith(FOLDER_SUFFIXES)


def entries(folder: Path) -> list[Path]:
    """Return the files of a folder, and its stacks that are folders, by name; no hidden ones."""
    paths = (path for path in sorted(folder.iterdir()) if not path.name.startswith("."))
    return [path for path in paths if path.is_file() or is_stack_folder(path)]


def folders_of(folder: Path) -> Iterator[Path]:
    """Yield a folder and those below it, but for hidden ones, and for stacks and what lies in them.

    A link to a folder is one of them; what is below that is not.
    """
    yield folder
    for path in sorted(folder.iterdir()):
        if path.is_dir() and not path.name.startswith(".") and not names_folder(path):
            yield from (path,) if path.is_symlink() else folders_of(path)


def suffix_of(path: str | os.PathLike[str]) -> str:
    """Return which of `VOLUME_SUFFIXES` a stack has.

    Raises:
        InputError: none.
    """
    file, _ = split_inside(path)
    if fitting := [suffix for suffix in VOLUME_SUFFIXES if file.name.lower().endswith(suffix)]:
        return max(fitting, key=len)  # of .ome.tif and .tif the longer one
    if file.suffix.lower() in FOREIGN_SUFFIXES:
        raise InputError(f"{path}: {file.suffix} is not read; {READ_AS}")
    raise InputError(f"{path}: unknown suffix {file.suffix!r}; accepted are {' '.join(VOLUME_SUFFIXES)}")


def stem_of(path: str | os.PathLike[str]) -> str:
    """Return a stack's name without the suffix of its format; an array in a file has the names of both.

    Raises:
        InputError: no format has this suffix.

    >>> [stem_of(name) for name in ("raw/2024.05.12_cell1.tif", "cell.NII.gz", "cell.ome.tif", "cell.h5:/t0/raw")]
    ['2024.05.12_cell1', 'cell', 'cell', 'cell_t0_raw']
    """
    file, inside = split_inside(path)
    return "_".join([file.name[: -len(suffix_of(path))], *(part for part in inside.split("/") if part)])
