"""Turn what a user names (files, folders, glob patterns) into files, the same way for every verb."""

from __future__ import annotations

import glob
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from distill3d.errors import InputError
from distill3d.volumes.stack_files import (
    FOREIGN_SUFFIXES,
    READ_AS,
    VOLUME_SUFFIXES,
    entries,
    is_stack_folder,
    names_folder,
    split_inside,
    stem_of,
)

PROB = "_prob"
_OF_ANOTHER = (PROB, "_mask", "_label")  # what the name of a stack that belongs to another one ends in


def expand(
    places: Sequence[Path | str], *, suffixes: Sequence[str] = VOLUME_SUFFIXES, others: bool = False
) -> list[Path]:
    """Return the files that are meant, each once, in the order they are named in.

    A file, or a stack that is a folder, is taken as it is, also if it is missing: whoever reads it says so. Another
    folder stands for its files of these suffixes by name, but not for hidden ones, nor for a stack's mask or
    probability (``X_mask``, ``X_prob``) beside ``X``. A glob pattern stands for what it matches of these suffixes, and
    for the folders it matches; ``**`` looks into subfolders.

    Args:
        places: files, folders, patterns.
        suffixes: of files that are meant.
        others: in a folder, masks and probabilities are meant too.

    Raises:
        InputError: a folder or a pattern stands for no file.
    """
    files: dict[Path, Path] = {}
    problems: list[str] = []
    for place in places:
        meant = list(_meant(str(place), tuple(suffixes), others=others))
        if not meant:
            problems.append(_nothing(str(place), suffixes))
        for path in meant:
            files.setdefault(path.resolve(), path)
    if problems:
        raise InputError(*problems)
    return list(files.values())


def name_of(path: Path) -> str:
    """Return the name of the neuron that a stack shows, which is that of its probability and its mask too.

    >>> name_of(Path("raw/cell.tif")), name_of(Path("prob/cell_prob.tif"))
    ('cell', 'cell')
    """
    stem = stem_of(path)
    return next((stem.removesuffix(end) for end in _OF_ANOTHER if stem.endswith(end)), stem)


def targets_of(stacks: Sequence[Path], out: Path, end: str, name: Callable[[Path], str] = stem_of) -> dict[Path, Path]:
    """Return the files to write, a stack's name and ``end``, with the stack each is made from.

    Raises:
        InputError: two stacks would give one file.
    """
    targets: dict[Path, Path] = {}
    problems: list[str] = []
    for stack in stacks:
        target = out / f"{name(stack)}{end}"
        if target in targets:
            problems.append(
                f"{targets[target]} and {stack} would both become {target}; accepted: one of them, or two --out"
            )
        targets.setdefault(target, stack)
    if problems:
        raise InputError(*problems)
    return targets


def require_writable(folder: Path, *, option: str = "--out") -> None:
    """Make a folder for results, before the work on them begins.

    Args:
        folder: to make.
        option: what of the command line names it, or a file in it.

    Raises:
        InputError: it cannot be made, or nothing can be written there.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise InputError(f"{folder}: cannot be written ({error.strerror}); accepted: another {option}") from error


def _meant(place: str, suffixes: tuple[str, ...], *, others: bool) -> Iterator[Path]:
    file, inside = split_inside(place)
    end = f":/{inside}" if inside else ""
    if file.is_dir() and not is_stack_folder(file):
        yield from _in_folder(file, suffixes, others=others)
    elif file.exists() or not glob.has_magic(str(file)):
        yield Path(f"{file}{end}")
    else:
        for match in map(Path, sorted(glob.glob(str(file), recursive=True))):  # noqa: PTH207 - patterns may be absolute
            if any(names_folder(parent) for parent in match.parents):
                continue
            if match.is_dir() and not is_stack_folder(match):
                yield from _in_folder(match, suffixes, others=others)
            elif match.name.lower().endswith(suffixes):
                yield Path(f"{match}{end}")


def _in_folder(folder: Path, suffixes: tuple[str, ...], *, others: bool) -> list[Path]:
    files = entries(folder)
    stacks = {path: stem_of(path) for path in files if path.name.lower().endswith(VOLUME_SUFFIXES)}
    of_another = set() if others else {f"{stem}{end}" for stem in stacks.values() for end in _OF_ANOTHER}
    return [path for path in files if path.name.lower().endswith(suffixes) and stacks.get(path) not in of_another]


def _nothing(place: str, suffixes: Sequence[str]) -> str:
    if not Path(place).is_dir():
        return f"{place}: no file matches this pattern; accepted: {' '.join(suffixes)}"
    foreign = [path.name for path in sorted(Path(place).iterdir()) if path.suffix.lower() in FOREIGN_SUFFIXES]
    unread = f"; {len(foreign)} such as {foreign[0]} are not read, {READ_AS}" if foreign else ""
    return f"{place}: no file in this folder can be used{unread}; accepted: {' '.join(suffixes)}"
