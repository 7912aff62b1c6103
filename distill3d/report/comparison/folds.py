"""Folds of arms: which are missing, and whether an arm and the baseline learned a case from the same neurons."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from distill3d.config.folds import FOLDS, fold_of, some, split_of
from distill3d.report.comparison.grouping import Group
from distill3d.report.comparison.runs import Run

Pair = tuple[str, int]  # a case and a seed


def shared_training(groups: Sequence[Group]) -> list[str]:
    """Warn of folds with several cases: these share their training neurons, for which no interval accounts."""
    several = [group for group in groups if len({fold_of(run.settings) for run in group.runs}) > 1]
    if all(len(run.cases) < 2 for group in several for run in group.runs):
        return []
    return ["cases of one fold share their training neurons; if it matters which, intervals are too short"]


def missing_folds(groups: Sequence[Group]) -> list[str]:
    """Say which folds arms lack, a line each: those that another arm has, and of numbered ones all.

    A fold that some seeds of an arm have is named with the seeds that it lacks.
    """
    lines: dict[str, list[str]] = {}
    for group in groups:
        alike = [other for other in groups if other.settings.get(FOLDS) == group.settings.get(FOLDS)]
        wanted = _tested(run for other in alike for run in other.runs)
        if len(wanted) < 2:
            continue
        seeds = {run.seed for run in group.runs}
        for fold, cases in wanted.items():
            lacking = seeds - {run.seed for run in group.runs if fold_of(run.settings) == fold}
            where = f"{fold} ({some(cases)})" if cases and group.settings.get(FOLDS) else fold
            if lacking:
                of = f", seed {some(sorted(lacking))}" if lacking != seeds else ""
                lines.setdefault(f"no finished run: {where}{of}", []).append(group.name)
    return [f"{', '.join(names)}: {what}" for what, names in lines.items()]


def _tested(runs: Iterable[Run]) -> dict[str, list[str]]:
    """Fold -> cases that its runs scored; all numbered folds, also those without a run."""
    tested: dict[str, dict[str, None]] = {}
    for run in runs:
        for fold in range(run.settings.get(FOLDS) or 0):
            tested.setdefault(fold_of({FOLDS: run.settings[FOLDS], "data.fold": fold}), {})
        tested.setdefault(fold_of(run.settings), {}).update(dict.fromkeys(run.cases))
    return {fold: list(cases) for fold, cases in tested.items()}


def unlike_pairs(arm: Group, baseline: Group) -> list[str]:
    """Say what unites no pair of case and seed: what one side alone has, and what both learned from other neurons."""
    here, there = _lessons(arm), _lessons(baseline)
    cases, seeds = ([{pair[axis] for pair in side} for side in (here, there)] for axis in (0, 1))
    lines = [
        f"{what} that {side} alone has: {some(sorted(alone))}"
        for what, (of_arm, of_baseline) in (("seeds", seeds), ("cases", cases))
        for side, alone in (("the arm", of_arm - of_baseline), ("the baseline", of_baseline - of_arm))
        if alone
    ]
    for side, own, other in (("the arm", here, there), ("the baseline", there, here)):
        # what a case or a seed that only one side has does not explain
        alone = [
            f"{case} with seed {seed}"
            for case, seed in sorted(own.keys() - other.keys())
            if case in cases[0] & cases[1] and seed in seeds[0] & seeds[1]
        ]
        lines += [f"pairs that {side} alone has: {some(alone)}"] if alone else []
    unlike = [case for case, seed in sorted(here.keys() & there.keys()) if here[case, seed] != there[case, seed]]
    return lines + (
        [f"cases that both learned from different neurons: {some(list(dict.fromkeys(unlike)))}"] if unlike else []
    )


def _lessons(group: Group) -> Mapping[Pair, set[str]]:
    """Pair of case and seed -> what its runs learned from: lists, or what these follow from, as text."""
    lessons: dict[Pair, set[str]] = {}
    for run in group.runs:
        fold, train, val, test = split_of(run.settings)
        lesson = repr((train, val) if train else (fold, test))
        for case in run.cases:
            lessons.setdefault((case, run.seed), set()).add(lesson)
    return lessons
