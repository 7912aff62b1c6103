"""Pairs files with gold ones by name, and scores each pair."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from distill3d.errors import InputError, for_each
from distill3d.evaluation.file_scores import score_files
from distill3d.volumes.inputs import expand, name_of
from distill3d.volumes.stack_files import VOLUME_SUFFIXES, stem_of
from distill3d.volumes.swc import TREE_SUFFIXES, is_tree_file

_LOG = logging.getLogger(__name__)

_KINDS = ("masks", "a mask and a tree", "trees")  # by how many of two files are trees
_USED_BY = {  # option -> kinds of which it changes a score
    "tolerance": {1, 2},
    "vaa3d_compat": {1, 2},
    "tree_um": {1, 2},
    "threshold": {0, 1},
    "mask_um": {0},
    "surface_um": {0},
}


def score_places(preds: Sequence[str], golds: Sequence[str], **how: Any) -> Iterator[dict[str, Any]]:  # noqa: ANN401 - as `score_files` has them
    """Score files, folders and patterns against gold ones, paired by `pair_files`, each pair as `score_files` does.

    Raises:
        InputError: there is no pair, or what was asked for changes none of their scores; of a pair that cannot be
            scored see `distill3d.errors.for_each`.
    """
    suffixes = (*VOLUME_SUFFIXES, *TREE_SUFFIXES)
    pred, gold = (expand(places, suffixes=suffixes, others=True) for places in (preds, golds))
    pairs = pair_files(pred, gold)
    given = {name for name, value in {**how, **(how.get("tolerances_um") or {})}.items() if value not in (None, False)}
    kinds = {sum(map(is_tree_file, pair)) for pair in pairs}
    if idle := [name for name, used in _USED_BY.items() if name in given and not used & kinds]:
        options = ", ".join(f"--{name.replace('_', '-')}" for name in idle)
        found = " or ".join(_KINDS[kind] for kind in sorted(kinds))
        raise InputError(f"{options}: changes no score of {found}; accepted: without")
    return for_each(pairs, lambda pair: score_files(*pair, **how))


def pair_files(preds: Sequence[Path], golds: Sequence[Path]) -> list[tuple[Path, Path]]:
    """Pair predictions with gold of the same name, the ends ``_prob``, ``_mask`` and ``_label`` of stacks left out.

    Of several gold files of a name the tree counts, else what is named a mask; of several predictions the one of its
    kind, a probability before a raw stack. One file of each is a pair whatever their names are. A prediction without
    gold is left out, with a warning.

    Raises:
        InputError: there is no pair, or files of one name lie in several folders.
    """
    if len(preds) == 1 and len(golds) == 1:
        return [(preds[0], golds[0])]
    by_name = [_by_name(paths) for paths in (preds, golds)]
    if missing := sorted(by_name[0].keys() - by_name[1].keys()):
        _LOG.warning("left out, because there is no gold of the name: %s", ", ".join(missing))
    pairs = []
    for name in sorted(by_name[0].keys() & by_name[1].keys()):
        gold = min(by_name[1][name], key=lambda path: 0 if is_tree_file(path) else 1 + (stem_of(path) == name))
        pred = min(by_name[0][name], key=lambda path: (is_tree_file(path) != is_tree_file(gold), _is_bare(path, name)))
        pairs.append((pred, gold))
    if not pairs:
        raise InputError(
            f"no prediction has gold of its name among {len(golds)} files; accepted: cell_prob.tif and cell.swc"
        )
    return pairs


def _is_bare(path: Path, name: str) -> bool:
    """Whether a stack's name says nothing of what it holds; beside others of the name it is the raw one."""
    return not is_tree_file(path) and stem_of(path) == name


def _by_name(paths: Sequence[Path]) -> dict[str, list[Path]]:
    names: dict[str, list[Path]] = {}
    seen: dict[str, Path] = {}
    problems: list[str] = []
    for path in paths:
        if (first := seen.setdefault(path.name, path)) != path:
            problems.append(f"{first} and {path} have one name; accepted: one folder of each at a time")
        suffix = next((end for end in sorted(TREE_SUFFIXES, key=len)[::-1] if path.name.lower().endswith(end)), "")
        name = path.name[: -len(suffix)] if suffix else name_of(path)
        names.setdefault(name, []).append(path)
    if problems:
        raise InputError(*problems)
    return names
