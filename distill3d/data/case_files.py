"""Find which files of a folder make a case: a volume, its tree and its mask, by name; none is opened."""

from __future__ import annotations

import fnmatch
import glob
import logging
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from distill3d.errors import InputError
from distill3d.volumes.volume import VOLUME_SUFFIXES

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class CaseFiles:
    """The files of one case; at least one of tree and mask is there."""

    volume: Path
    tree: Path | None
    mask: Path | None


def find_case_files(
    folder: Path, *, volume: str, tree: str, masks: Sequence[str], nested: bool = False, origin: str = ""
) -> dict[str, CaseFiles]:
    """Find the volumes that have a tree or a mask of the same stem.

    Args:
        folder: where they are.
        volume: name of a volume without its suffix; holds ``{stem}``.
        tree: name of a tree; likewise, and ``*`` may stand for anything. Of several files that fit the last by name is
            taken, which is the newest where names end with a date.
        masks: names of masks without suffix; likewise, without ``*``.
        nested: look in subfolders too; each holds trees and masks beside its volumes.
        origin: where the data can be had, for the error.

    Returns:
        Name -> files, by name. A name is the stem; of a nested case it is the subfolders, joined by two underscores,
        and the stem where one folder holds several volumes.

    Raises:
        InputError: the folder is missing or holds no labelled volume, or two volumes share a name or a tree.
    """
    if not folder.is_dir():
        raise InputError(
            f"{folder}: no such folder of neurons{origin and f' ({origin})'}; accepted: data.folder=PATH, or set the "
            "environment variable DISTILL3D_DATA to the folder that holds the data (experiments look there)"
        )
    below = sorted(path for path in folder.rglob("*") if path.is_dir() and not _hidden(path, folder)) if nested else []
    candidates: dict[str, CaseFiles] = {}
    for each in (folder, *below):
        in_folder = _in_folder(each, volume, tree, masks)
        for stem, case in in_folder.items():
            parts = each.relative_to(folder).parts
            name = "__".join(parts if parts and len(in_folder) == 1 else (*parts, stem))
            if name in candidates:
                raise InputError(f"{case.volume} and {candidates[name].volume} are both case {name!r}; accepted: one")
            candidates[name] = case
    cases = {name: case for name, case in sorted(candidates.items()) if case.tree or case.mask}
    if not cases:
        wanted = " or ".join([tree, *masks])
        raise InputError(
            f"{folder}: none of {len(candidates)} volumes has a gold file; accepted: {wanted} beside {volume}"
        )
    if unlabelled := [name for name in candidates if name not in cases]:
        _LOG.info("%s: left out, because there is neither tree nor mask: %s", folder, ", ".join(sorted(unlabelled)))
    return cases


def _hidden(path: Path, folder: Path) -> bool:
    """Say whether an operating system put it there: its name, or that of a folder around it, begins with a dot."""
    return any(part.startswith(".") for part in path.relative_to(folder).parts)


def _in_folder(folder: Path, volume: str, tree: str, masks: Sequence[str]) -> dict[str, CaseFiles]:
    """Stem -> files, of all volumes of a folder but those that are masks of others."""
    files = {path.name: path for path in sorted(folder.iterdir()) if path.is_file() and not _hidden(path, folder)}
    volumes = _volumes(files, volume, folder)
    cases = {stem: _case_files(stem, path, files, tree, masks) for stem, path in volumes.items()}
    taken: dict[Path, str] = {}
    for stem, case in cases.items():
        if case.tree is not None and taken.setdefault(case.tree, stem) != stem:
            raise InputError(
                f"{case.tree}: the tree of both {taken[case.tree]!r} and {stem!r}; accepted: data.tree "
                "that fits one volume each"
            )
    masks_in_use = {case.mask for case in cases.values()}
    return {stem: case for stem, case in cases.items() if case.tree or case.mask or case.volume not in masks_in_use}


def _volumes(files: dict[str, Path], template: str, folder: Path) -> dict[str, Path]:
    """Stem -> volume, of all names that fit the template."""
    before, after = template.split("{stem}")
    pattern = re.compile(f"{re.escape(before)}(.+){re.escape(after)}")
    volumes: dict[str, Path] = {}
    for name, path in files.items():
        base = _base(name)
        match = pattern.fullmatch(base) if base is not None else None
        if match is None:
            continue
        stem = match.group(1)
        if stem in volumes:
            raise InputError(f"{folder}: {volumes[stem].name} and {name} are both volumes of {stem!r}; accepted: one")
        volumes[stem] = path
    return volumes


def _case_files(stem: str, path: Path, files: dict[str, Path], tree: str, masks: Sequence[str]) -> CaseFiles:
    bases = {name: _base(name) for name in files if files[name] != path}
    wanted = [mask.replace("{stem}", stem) for mask in masks]
    mask = next((files[name] for base in wanted for name in bases if bases[name] == base), None)
    trees = {_small_suffix(name): name for name in files}  # one spelt in small letters wins
    fitting = fnmatch.filter(trees, _small_suffix(tree.replace("{stem}", glob.escape(stem))))
    return CaseFiles(path, files[trees[max(fitting)]] if fitting else None, mask)


def _small_suffix(name: str) -> str:
    """Return a name with its suffix in small letters: ``N0.SWC`` is the tree ``N0.swc``."""
    stem, dot, suffix = name.rpartition(".")
    return f"{stem}{dot}{suffix.lower()}" if dot else name


def _base(name: str) -> str | None:
    """Return the name without its volume suffix, None for another kind of file."""
    suffix = next((s for s in VOLUME_SUFFIXES if name.lower().endswith(s)), None)
    return None if suffix is None else name[: -len(suffix)]
