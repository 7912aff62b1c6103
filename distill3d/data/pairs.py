"""Which files of a folder belong together: a volume, its tree, its mask, by name. It opens none of them."""

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
class Pair:
    """The files of one case; at least one of tree and mask is there."""

    volume: Path
    tree: Path | None
    mask: Path | None


def find_pairs(folder: Path, volume: str, tree: str, masks: Sequence[str]) -> dict[str, Pair]:
    """Look for volumes that have a tree or a mask of the same stem.

    Args:
        folder: searched, not what lies below it.
        volume: name of a volume without its suffix; holds ``{stem}``.
        tree: name of a tree; likewise.
        masks: names of masks without suffix; likewise, the first that exists is taken.

    Returns:
        Stem -> files, by name.

    Raises:
        InputError: the folder is missing or holds no pair, or two volumes share a name.
    """
    if not folder.is_dir():
        raise InputError(
            f"{folder}: no such folder of neurons; accepted: data.folder=PATH, or set the environment variable "
            "DISTILL3D_DATA to the folder that holds the data (experiments look there)"
        )
    files = {path.name: path for path in sorted(folder.iterdir()) if path.is_file()}
    pairs = {stem: _pair(stem, path, files, tree, masks) for stem, path in _volumes(files, volume, folder).items()}
    paired = {stem: pair for stem, pair in pairs.items() if pair.tree or pair.mask}
    if not paired:
        wanted = " or ".join([tree, *masks])
        raise InputError(f"{folder}: none of {len(pairs)} volumes has a gold file; accepted: {wanted} beside {volume}")
    taken = {pair.mask for pair in paired.values()}
    alone = sorted(stem for stem, pair in pairs.items() if stem not in paired and pair.volume not in taken)
    if alone:
        _LOG.info("%s: left out, because there is neither tree nor mask: %s", folder, ", ".join(alone))
    return paired


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


def _pair(stem: str, path: Path, files: dict[str, Path], tree: str, masks: Sequence[str]) -> Pair:
    names = [mask.replace("{stem}", stem) + suffix for mask in masks for suffix in VOLUME_SUFFIXES]
    mask = next((files[name] for name in names if name in files and files[name] != path), None)
    return Pair(path, files.get(tree.replace("{stem}", stem)), mask)


def _base(name: str) -> str | None:
    """Return the name without its volume suffix, None for another kind of file."""
    suffix = next((s for s in VOLUME_SUFFIXES if name.lower().endswith(s)), None)
    return None if suffix is None else name[: -len(suffix)]
