"""Scores by case: the mean over an arm's seeds, and which cases gain. It tests nothing."""

from __future__ import annotations

from distill3d.evaluation.scores import Score
from distill3d.report.content import Arm


def cases_that_gain(arm: Arm, baseline: Arm, score: Score) -> tuple[int, int]:
    """Count the cases both have, and those in which the arm's mean over seeds is the better one."""
    mine, theirs = case_means(arm, score.key), case_means(baseline, score.key)
    both = [(mine[case], theirs[case]) for case in mine if theirs.get(case) is not None and mine[case] is not None]
    sign = 1 if score.higher_is_better else -1
    return len(both), sum(1 for a, b in both if sign * ((a or 0) - (b or 0)) > 0)


def case_means(arm: Arm, key: str) -> dict[str, float | None]:
    """Return the mean over seeds of every case; None where no seed has a value."""
    values: dict[str, list[float]] = {}
    for run in arm.runs:
        for case, scores in run.cases.items():
            found = scores.get(key)
            values.setdefault(case, []).extend([] if found is None else [found])
    return {case: sum(found) / len(found) if found else None for case, found in values.items()}
