"""Which settings say only which neurons a run learns from and is scored on: runs that differ in them are one arm.

The rule: ``data.fold`` never tells arms apart, and of the lists ``data.train``, ``data.val`` and ``data.test`` only the
numbers of names do. So leave-one-out over lists is one arm, and one, two or three training neurons are three. A list
with a pattern such as ``fly_*`` counts as it is written, since how many cases it names is not known here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

FOLD, FOLDS = "data.fold", "data.folds"
LISTS = ("data.train", "data.val", "data.test")
MOST = 3  # names in a line


def without_folds(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return dotted settings with how many cases in place of which.

    Example:
        >>> without_folds({"data.train": ["OP_1", "OP_3"], "data.test": ["OP_*"], "data.fold": 2, "optimizer.lr": 0.1})
        {'data.train': '2 cases', 'data.test': ['OP_*'], 'optimizer.lr': 0.1}
    """
    return {key: _counted(key, value) for key, value in settings.items() if key != FOLD}


def _counted(key: str, value: object) -> object:
    if key not in LISTS or not (count := count_of(value)):
        return value
    return f"{count} case{'s' * (count != 1)}"


def count_of(names: object) -> int | None:
    """Return how many cases a list names; None for an empty one, a pattern in it, or no list.

    >>> count_of(["OP_1", "OP_3"]), count_of(["OP_1", "fly_*"]), count_of([]), count_of(0.5)
    (2, None, None, None)
    """
    if not isinstance(names, list | tuple) or any(mark in str(name) for name in names for mark in "*?["):
        return None
    return len(names) or None


def fold_of(settings: Mapping[str, Any]) -> str:
    """Name what a run with these dotted settings is tested on; empty where that is dealt out by shares.

    Example:
        >>> fold_of({"data.folds": 4, "data.fold": 2}), fold_of({"data.test": ["OP_5", "OP_6"]})
        ('fold 2 of 4', 'OP_5, OP_6 held out')
    """
    if settings.get(FOLDS):
        return f"fold {settings.get(FOLD, 0)} of {settings[FOLDS]}"
    test = settings.get("data.test")
    return f"{some(test)} held out" if isinstance(test, list | tuple) and test else ""


def split_of(settings: Mapping[str, Any]) -> tuple[Any, ...]:
    """Return what tells the folds of an arm apart: the fold's number, and names to train, validate and test on."""
    return tuple(settings.get(key) or None for key in (FOLD, *LISTS))


def some(names: Sequence[Any], *, joined: str = ", ") -> str:
    """Name the first few, and how many more there are."""
    more = f" and {len(names) - MOST} more" if len(names) > MOST else ""
    return joined.join(map(str, names[:MOST])) + more
