"""Which cases train, validate and test: names in, three disjoint groups of names out."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase

from distill3d.data.base import SPLITS, Split
from distill3d.errors import ConfigError, did_you_mean

_SHOWN = 8  # names in a line
Splits = dict[Split, tuple[str, ...]]


def select(names: Sequence[str], include: Sequence[str], exclude: Sequence[str]) -> tuple[str, ...]:
    """Return the names that match a pattern of ``include`` (all, if it is empty) and none of ``exclude``, sorted.

    Raises:
        ConfigError: a pattern that matches nothing, which is a typo; one line each.

    Example:
        >>> select(["OP_1", "OP_2", "worm"], ["OP_*"], ["OP_2"])
        ('OP_1',)
    """
    problems = [
        f"data.{key}: {pattern!r} matches no case; found: {_listed(names)}"
        for key, patterns in (("include", include), ("exclude", exclude))
        for pattern in patterns
        if not any(fnmatchcase(name, pattern) for name in names)
    ]
    if problems:
        raise ConfigError(*problems)
    wanted = [name for name in names if not include or any(fnmatchcase(name, p) for p in include)]
    return tuple(sorted(name for name in wanted if not any(fnmatchcase(name, p) for p in exclude)))


def split_by_lists(names: Sequence[str], lists: Mapping[Split, Sequence[str]]) -> Splits:
    """Take the splits as listed, by name or by pattern; names in no list are left out.

    Raises:
        ConfigError: a name or a pattern that is unknown, or a case that is listed twice; one line each.

    Example:
        >>> split_by_lists(["fly_1", "fly_2", "mouse_1"], {"train": ["fly_*"], "val": ["mouse_1"]})
        {'train': ('fly_1', 'fly_2'), 'val': ('mouse_1',), 'test': ()}
    """
    problems: list[str] = []
    seen: dict[str, Split] = {}
    for split in SPLITS:
        for wanted in lists.get(split, ()):
            matching = [wanted] if wanted in names else sorted(name for name in names if fnmatchcase(name, wanted))
            if not matching:
                hint = did_you_mean(wanted, names) or f"found: {_listed(names)}"
                problems.append(f"data.{split}: unknown case {wanted!r}; {hint}")
            problems += [
                f"data.{split}: {name!r} is in {seen[name]} already; accepted: each case once"
                for name in matching
                if name in seen
            ]
            seen |= {name: split for name in matching if name not in seen}
    if problems:
        raise ConfigError(*problems)
    return {split: tuple(name for name, of in seen.items() if of == split) for split in SPLITS}


def split_around_test(
    names: Sequence[str], test: Sequence[str], fractions: tuple[float, float, float], seed: int
) -> Splits:
    """Test on the cases listed, by name or by pattern; deal the others to train and val, in the ratio of their shares.

    Raises:
        ConfigError: see `split_by_lists` and `split_by_fractions`.

    Example:
        >>> split_around_test(["fly_1", "fly_2", "mouse_1"], ["mouse_*"], (0.5, 0.5, 0.0), 0)["test"]
        ('mouse_1',)
    """
    held_out = split_by_lists(names, {"test": test})["test"]
    train, val, _ = fractions
    others = [name for name in names if name not in held_out]
    dealt = split_by_fractions(others, (train / (train + val), val / (train + val), 0.0), seed)
    return {**dealt, "test": held_out}


def split_by_fractions(names: Sequence[str], fractions: tuple[float, float, float], seed: int) -> Splits:
    """Deal the names out by share; every split with a share above 0 gets one case at least.

    The order comes from a hash of seed and name, so it is the same on every machine, and a new case moves few others.

    Raises:
        ConfigError: fewer cases than splits.

    Example:
        >>> parts = split_by_fractions(["a", "b", "c", "d", "e"], (0.6, 0.2, 0.2), 0)
        >>> [len(parts[split]) for split in ("train", "val", "test")]
        [3, 1, 1]
    """
    order, (_, val_share, test_share) = _shuffled(names, seed), fractions
    n_val, n_test = (max(1, round(share * len(order))) if share else 0 for share in (val_share, test_share))
    n_val = min(n_val, len(order) - 1 - bool(test_share))
    n_test = min(n_test, len(order) - 1 - n_val)
    if n_val < 1 or n_test < bool(test_share):
        raise ConfigError(
            f"data: {len(order)} case(s) cannot fill splits of {fractions}; accepted: more cases, or lists of names"
        )
    n_train = len(order) - n_val - n_test
    ends = (n_train, n_train + n_val, len(order))
    parts = (order[: ends[0]], order[ends[0] : ends[1]], order[ends[1] :])
    return {split: tuple(sorted(part)) for split, part in zip(SPLITS, parts, strict=True)}


def split_by_folds(
    names: Sequence[str], folds: int, fold: int, seed: int, *, parts: Sequence[Sequence[str]] | None = None
) -> Splits:
    """Cross-validation: part ``fold`` tests, the next one validates, the others train; every case tests once.

    Args:
        names: of the cases.
        folds: number of parts.
        fold: from 0.
        seed: of the order in which names are dealt out.
        parts: as they are dealt out already; then no seed matters.

    Raises:
        ConfigError: fewer cases than folds.

    Example:
        >>> names = ["a", "b", "c", "d"]
        >>> sorted(name for fold in range(4) for name in split_by_folds(names, 4, fold, 0)["test"])
        ['a', 'b', 'c', 'd']
    """
    order = _shuffled(names, seed)
    if len(order) < folds:
        raise ConfigError(f"data.folds={folds} is more than the {len(order)} cases found; accepted: 3 to {len(order)}")
    parts = parts or [order[k::folds] for k in range(folds)]
    test, val = parts[fold], parts[(fold + 1) % folds]
    train = [name for name in order if name not in test and name not in val]
    return {split: tuple(sorted(part)) for split, part in zip(SPLITS, (train, val, test), strict=True)}


def _shuffled(names: Sequence[str], seed: int) -> list[str]:
    return sorted(names, key=lambda name: hashlib.sha256(f"{seed}:{name}".encode()).digest())


def _listed(names: Sequence[str]) -> str:
    shown = ", ".join(sorted(names)[:_SHOWN])
    return f"{shown}, ... ({len(names)})" if len(names) > _SHOWN else shown or "none"
