"""Scores of an arm's runs as a table of cases by seeds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

import numpy as np

from distill3d.evaluation.scores import Score
from distill3d.report.comparison.statistics import Array
from distill3d.report.content import Arm


class Scored(Protocol):
    """A run, as read or as a report has it."""

    @property
    def seed(self) -> int:
        """Of the run."""
        ...

    @property
    def cases(self) -> Mapping[str, Mapping[str, float | None]]:
        """Scores by case, then by key."""
        ...


def axes(runs: Sequence[Scored]) -> tuple[list[str], list[int]]:
    """Return the cases that any run has, those of all folds together, and the seeds."""
    cases = dict.fromkeys(case for run in runs for case in run.cases)
    return list(cases), list(dict.fromkeys(run.seed for run in runs))


def score_table(runs: Sequence[Scored], key: str, cases: Sequence[str], seeds: Sequence[int]) -> Array:
    """Return scores [C, S] of an arm's runs, NaN where no run has a value.

    A case that several folds of a seed test, each trained on other neurons, has the mean over them.
    """
    cells: dict[tuple[str, int], list[float]] = {}
    for run in runs:
        for case, scores in run.cases.items():
            if (value := scores.get(key)) is not None:
                cells.setdefault((case, run.seed), []).append(value)
    pairs = [[cells.get((case, seed), [np.nan]) for seed in seeds] for case in cases]
    rows = [[sum(values) / len(values) for values in row] for row in pairs]
    return np.array(rows, dtype=np.float64).reshape(len(cases), len(seeds))


def cases_that_gain(arm: Arm, baseline: Arm, score: Score) -> tuple[int, int]:
    """Count the cases both have, and those in which the arm's mean over seeds is the better one."""
    of_arm, of_baseline = case_means(arm, score.key), case_means(baseline, score.key)
    both = [
        (of_arm[case], of_baseline[case])
        for case in of_arm
        if of_baseline.get(case) is not None and of_arm[case] is not None
    ]
    sign = 1 if score.higher_is_better else -1
    return len(both), sum(1 for a, b in both if sign * ((a or 0) - (b or 0)) > 0)


def case_means(arm: Arm, key: str) -> dict[str, float | None]:
    """Return the mean over seeds of every case; None where no seed has a value."""
    cases, seeds = axes(arm.runs)
    table = score_table(arm.runs, key, cases, seeds)
    return {
        case: None if np.isnan(row).all() else float(np.nanmean(row)) for case, row in zip(cases, table, strict=True)
    }
