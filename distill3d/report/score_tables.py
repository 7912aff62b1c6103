"""Scores of an arm's runs as a table of cases by seeds. It computes nothing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

import numpy as np

from distill3d.report.statistics import Array


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
    """Return the cases that any run has, and the seeds."""
    return list(dict.fromkeys(case for run in runs for case in run.cases)), [run.seed for run in runs]


def score_table(runs: Sequence[Scored], key: str, cases: Sequence[str], seeds: Sequence[int]) -> Array:
    """Return scores [C, S] of an arm's runs, NaN where a run has no value."""
    by_seed = {run.seed: run.cases for run in runs}
    rows = [[by_seed.get(seed, {}).get(case, {}).get(key) for seed in seeds] for case in cases]
    return np.array(rows, dtype=np.float64).reshape(len(cases), len(seeds))
