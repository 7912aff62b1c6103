"""Find which files of a folder make a case: a volume, its tree and its mask, by name; none is opened."""

from __future__ import annotations

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


def find_case_files(folder: Path, volume: str, tree: str, masks: Sequence[str]) -> dict[str, CaseFiles]:
    """Find the volumes that have a tree or a mask of the same stem.

    Args:
        folder: searched without its subfolders.
        volume: name of a volume without its suffix; holds ``{stem}``.
        tree: name of a tree; likewise.
        masks: names of masks without suffix; likewise, the first that exists is taken.

    Returns:
        Stem -> files, by name.

    Raises:
        InputError: the folder is missing or holds no labelled volume, or two volumes share a name.
    """
    if not folder.is_dir():
        raise InputError(
            f"{folder}: no such folder of neurons; accepted: data.folder=PATH, or set the environment variable "
            "DISTILL3D_DATA to the folder that holds the data (experiments look there)"
        )
    files = {path.name: path for path in sorted(folder.iterdir()) if path.is_file()}
    paths = _volumes(files, volume, folder)
    candidates = {stem: _case_files(stem, path, files, tree, masks) for stem, path in paths.items()}
    cases = {stem: case for stem, case in candidates.items() if case.tree or case.mask}
    if not cases:
        wanted = " or ".join([tree, *masks])
        raise InputError(f"{folder}: none of {len(paths)} volumes has a gold file; accepted: {wanted} beside {volume}")
    masks_in_use = {case.mask for case in cases.values()}
    unlabelled = sorted(stem for stem, path in paths.items() if stem not in cases and path not in masks_in_use)
    if unlabelled:
        _LOG.info("%s: left out, because there is neither tree nor mask: %s", folder, ", ".join(unlabelled))
    return cases


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
    names = [mask.replace("{stem}", stem) + suffix for mask in masks for suffix in VOLUME_SUFFIXES]
    mask = next((files[name] for name in names if name in files and files[name] != path), None)
    return CaseFiles(path, files.get(tree.replace("{stem}", stem)), mask)


def _base(name: str) -> str | None:
    """Return the name without its volume suffix, None for another kind of file."""
    suffix = next((s for s in VOLUME_SUFFIXES if name.lower().endswith(s)), None)
    return None if suffix is None else name[: -len(suffix)]
