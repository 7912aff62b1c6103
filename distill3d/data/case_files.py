"""Find which files of a folder make a case: a volume, its tree and its mask, by name; of trees the header is read."""

from __future__ import annotations

import fnmatch
import glob
import logging
import re
import sys
from bisect import bisect_left
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from string import digits
from typing import final

from distill3d.config.folds import some
from distill3d.errors import InputError
from distill3d.volumes.geometry import Spacing
from distill3d.volumes.origin import stated_notes
from distill3d.volumes.stack_files import FOREIGN_SUFFIXES, READ_AS, VOLUME_SUFFIXES, entries, folders_of, stem_of
from distill3d.volumes.swc import TREE_SUFFIXES

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class CaseFiles:
    """The files of one case, and what its folder says of them; at least one of tree and mask is there.

    Attributes:
        volume: the image.
        tree: the gold tree.
        mask: the gold mask.
        traced: trees of its name that were traced here, which are no gold.
        spacing_um: ZYX voxel size that is written beside the image.
        unknown_label: mask value of voxels that nobody labelled.
        held_out: kept for test by the folder's layout.
    """

    volume: Path
    tree: Path | None
    mask: Path | None
    traced: tuple[Path, ...] = ()
    spacing_um: Spacing | None = None
    unknown_label: int | None = None
    held_out: bool = False


def find_case_files(
    folder: Path, *, volume: str, tree: str, masks: Sequence[str], nested: bool = False, origin: str = ""
) -> dict[str, CaseFiles]:
    """Find the volumes that have a tree or a mask of the same stem.

    Args:
        folder: where they are.
        volume: name of a volume without its suffix; holds ``{stem}``.
        tree: name of a tree; likewise, and ``*`` may stand for anything that does not cut a number of the stem. Of
            several files that fit the last by name is taken, which is the newest where names end with a date.
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
    if foreign := _foreign(folder, nested=nested):
        _LOG.warning("%s: not read and left out: %s; %s", folder, ", ".join(foreign), READ_AS)
    candidates: dict[str, CaseFiles] = {}
    for each in _folders(folder, nested=nested):
        in_folder = _in_folder(each, volume, tree, masks)
        for stem, case in in_folder.items():
            parts = each.relative_to(folder).parts
            name = "__".join(parts if parts and len(in_folder) == 1 else (*parts, stem))
            if name in candidates:
                raise InputError(f"{case.volume} and {candidates[name].volume} are both case {name!r}; accepted: one")
            candidates[name] = case
    wanted = f"{' or '.join([tree, *masks])} beside {volume}"
    return _labelled(folder, candidates, wanted, foreign)


def _labelled(
    folder: Path, candidates: Mapping[str, CaseFiles], wanted: str, foreign: Sequence[str]
) -> dict[str, CaseFiles]:
    """Return the cases that have gold, by name, and say which have not."""
    cases = {name: case for name, case in sorted(candidates.items()) if case.tree or case.mask}
    traced = traced_here(candidates.values())
    if not cases:
        raise InputError(
            f"{folder}: none of {len(candidates)} volumes has a gold file; accepted: {wanted}"
            + (f"; {len(foreign)} stacks such as {foreign[0]} are not read, {READ_AS}" if foreign else "")
            + (f"; {traced}" if traced else "")
        )
    if traced:
        _LOG.warning("%s: %s", folder, traced)
    if unlabelled := [name for name in candidates if name not in cases]:
        _LOG.info("%s: left out, because there is neither tree nor mask: %s", folder, ", ".join(sorted(unlabelled)))
    return cases


def traced_here(cases: Iterable[CaseFiles]) -> str:
    """Name the trees of cases that were traced here and are left out; empty where there is none."""
    trees = [tree.name for case in cases for tree in case.traced]
    return f"left out, since distill3d traced them and they are no gold: {some(trees)}" if trees else ""


def _in_folder(folder: Path, volume: str, tree: str, masks: Sequence[str]) -> dict[str, CaseFiles]:
    """Stem -> files, of all volumes of a folder but those that are masks of others."""
    files = {path.name: path for path in entries(folder)}
    volumes = volumes_by_stem(files, volume, folder)
    named = GoldNames(files)
    cases = {stem: case_files_of(stem, path, named, tree, masks) for stem, path in volumes.items()}
    taken: dict[Path, str] = {}
    for stem, case in cases.items():
        if case.tree is not None and taken.setdefault(case.tree, stem) != stem:
            raise InputError(
                f"{case.tree}: the tree of both {taken[case.tree]!r} and {stem!r}; accepted: data.tree "
                "that fits one volume each"
            )
    masks_in_use = {case.mask for case in cases.values()}
    return {stem: case for stem, case in cases.items() if case.tree or case.mask or case.volume not in masks_in_use}


def _folders(folder: Path, *, nested: bool) -> Iterable[Path]:
    return folders_of(folder) if nested else (folder,)


def _foreign(folder: Path, *, nested: bool) -> list[str]:
    """Names of stacks in formats that are not read."""
    paths = [path for each in _folders(folder, nested=nested) for path in sorted(each.iterdir())]
    return [path.name for path in paths if path.suffix.lower() in FOREIGN_SUFFIXES and not path.name.startswith(".")]


def volumes_by_stem(files: dict[str, Path], template: str, folder: Path) -> dict[str, Path]:
    """Stem -> volume, of all names that fit the template.

    Raises:
        InputError: two files are volumes of one stem.
    """
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


@final
class GoldNames:
    """The files of a folder, by name, as masks and as trees of some stem; suffixes may be in capitals."""

    def __init__(self, files: Mapping[str, Path]) -> None:
        self._masks: dict[str, list[Path]] = {}
        for name, path in files.items():
            if (base := _base(name)) is not None:
                self._masks.setdefault(base, []).append(path)
        self.trees = {_small_suffix(name): path for name, path in files.items()}  # one spelt in small letters wins
        self._sorted = sorted(self.trees)

    def mask(self, base: str, *, volume: Path) -> Path | None:
        """Return the stack of a name without its suffix that is not the volume itself."""
        return next((path for path in self._masks.get(base, ()) if path != volume), None)

    def fitting(self, template: str, stem: str) -> list[str]:
        """Return the names of trees that fit, the last first; a ``*`` beside the stem does not make cell12 of cell1.

        >>> GoldNames(dict.fromkeys(["cell1.swc", "of_cell1_b.swc", "cell12.swc"])).fitting("*{stem}*.swc", "cell1")
        ['of_cell1_b.swc', 'cell1.swc']
        """
        before, after = template.split("{stem}")
        near = self._sorted
        if not glob.has_magic(before):
            begin = f"{before}{stem}"
            near = near[bisect_left(near, begin) : bisect_left(near, f"{begin}{chr(sys.maxunicode)}")]
        fronts = [before[:-1], f"{before}[!0-9]"] if before.endswith("*") and stem[0] in digits else [before]
        backs = [after[1:], f"[!0-9]{after}"] if after.startswith("*") and stem[-1] in digits else [after]
        patterns = [f"{front}{glob.escape(stem)}{back}" for front in fronts for back in backs]
        return sorted({name for pattern in patterns for name in fnmatch.filter(near, pattern)}, reverse=True)


def case_files_of(stem: str, path: Path, named: GoldNames, tree: str, masks: Sequence[str]) -> CaseFiles:
    """Return a volume with the tree and the mask of its stem, out of the files of a folder.

    A tree that is named ``.swc`` may also have another of `TREE_SUFFIXES`; the first of these that is there counts. One
    that was traced here, see `distill3d.volumes.origin`, is not gold.
    """
    found = (named.mask(mask.replace("{stem}", stem), volume=path) for mask in masks)
    mask = next((each for each in found if each is not None), None)
    template = _small_suffix(tree)
    ends, base = (TREE_SUFFIXES, template.removesuffix(".swc")) if template.endswith(".swc") else (("",), template)
    fitting = [named.trees[name] for end in ends for name in named.fitting(base + end, stem)]
    traced = tuple(each for each in fitting if "made_from" in stated_notes(each))
    return CaseFiles(path, next((each for each in fitting if each not in traced), None), mask, traced)


def _small_suffix(name: str) -> str:
    """Return a name with its suffix in small letters: ``N0.SWC`` is ``N0.swc``, ``N0.SWC.GZ`` is ``N0.swc.gz``."""
    return re.sub(r"\.\w+(\.gz)?$", lambda suffix: suffix[0].lower(), name, flags=re.IGNORECASE)


def _base(name: str) -> str | None:
    """Return the name without its volume suffix, None for another kind of file."""
    return stem_of(name) if name.lower().endswith(VOLUME_SUFFIXES) else None
