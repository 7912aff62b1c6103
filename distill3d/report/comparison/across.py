"""Profiles and ranks of a comparison's arms, score by score."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from distill3d.evaluation.scores import Score
from distill3d.report.comparison.profiles import profile
from distill3d.report.comparison.ranks import MIN_ARMS, MIN_CASES, rank_arms
from distill3d.report.comparison.score_tables import axes, score_table
from distill3d.report.comparison.statistics import Array
from distill3d.report.comparison.verdict import MIN_SEEDS
from distill3d.report.content import Arm, Profile, Ranking


def profiles_of(arms: Sequence[Arm], scores: Sequence[Score]) -> tuple[Profile, ...]:
    """Return a profile of every arm in every score that it has."""
    return tuple(
        profile(score_table(arm.runs, score.key, *axes(arm.runs)), score, arm=arm.name)
        for score in scores
        for arm in arms
    )


def rankings_of(arms: Sequence[Arm], scores: Sequence[Score]) -> tuple[Ranking, ...]:
    """Rank the arms in every score, or say why not: there must be arms, and as much as a verdict wants."""
    return tuple(_ranking(arms, score) for score in scores) if len(arms) > 1 else ()


def _ranking(arms: Sequence[Arm], score: Score) -> Ranking:
    means, n_seeds = _shared_means(arms, score.key)
    n_cases = len(means)
    why = _too_few(len(arms), n_cases, n_seeds)
    if why:
        return Ranking(score=score.key, n_cases=n_cases, n_seeds=n_seeds, why=why)
    return rank_arms(means, [arm.name for arm in arms], score, n_seeds=n_seeds)


def _shared_means(arms: Sequence[Arm], key: str) -> tuple[Array, int]:
    """Means over seeds [C, A] of the cases that all arms have, over the pairs that all have, and how many seeds."""
    each = [axes(arm.runs) for arm in arms]
    cases = [case for case in each[0][0] if all(case in cases for cases, _ in each)]
    seeds = [seed for seed in each[0][1] if all(seed in seeds for _, seeds in each)]
    tables = np.stack([score_table(arm.runs, key, cases, seeds) for arm in arms], axis=-1)  # [C, S, A]
    known = np.asarray(~np.isnan(tables).any(-1))
    n_of_case, n_of_seed = known.sum(1), known.sum(0)
    means = np.where(known[..., None], tables, 0).sum(1) / np.maximum(n_of_case, 1)[:, None]
    return means[np.flatnonzero(n_of_case)], int(np.count_nonzero(n_of_seed))


def _too_few(n_arms: int, n_cases: int, n_seeds: int) -> str:
    wanted = ((n_arms, MIN_ARMS, "arm"), (n_cases, MIN_CASES, "case"), (n_seeds, MIN_SEEDS, "seed"))
    if all(n >= least for n, least, _ in wanted):
        return ""
    arms, cases, seeds = (f"{n or 'no'} {what}{'s' * (n != 1)}" for n, _, what in wanted)
    needed = f"{MIN_ARMS} arms, {MIN_CASES} cases and {MIN_SEEDS} seeds"
    return f"{arms} with {cases} and {seeds} in common; ranks need {needed}"
