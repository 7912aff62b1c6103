"""Average ranks of arms over cases, and which of them differ.

Source: Demsar 2006, *Statistical Comparisons of Classifiers over Multiple Data Sets*, JMLR 7, section 3.2: Friedman's
test, then Nemenyi's critical difference, drawn as groups of arms that are not told apart.

Benavoli, Corani and Mangili 2016 (*Should We Really Use Post-Hoc Tests Based on Mean-Ranks?*, JMLR 17) show that such a
pair depends on which other arms are there, and would test pairs by Wilcoxon with Holm. That is not done here, for two
reasons. With five cases Wilcoxon's smallest p is 0.0625, so it could join all arms only. And pairs with the baseline
are tested already, with seeds counted (`verdict`): ranks are a second look at all arms at once, and one critical
difference is a length one can see and check in the picture.

Ranks take the mean over seeds for the truth: how trainings scatter is in none of these numbers.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from scipy import stats

from distill3d.evaluation.scores import Score
from distill3d.report.comparison.statistics import LEVEL, Array
from distill3d.report.content import Ranking

MIN_ARMS = 3  # of two, the paired test says all
MIN_CASES = 5  # of fewer, no difference of average ranks can be told from luck


def rank_arms(means: Array, arms: Sequence[str], score: Score, *, n_seeds: int) -> Ranking:
    """Rank arms in every case and tell which differ.

    Args:
        means: [C, A], mean of each case and arm; no gaps, at least `MIN_ARMS` arms and two cases.
        arms: names of the A arms.
        score: says whether the largest mean has rank 1.
        n_seeds: that are in the means.

    Example:
        >>> dice = Score(key="dice", label="Dice", unit="", higher_is_better=True, digits=3)
        >>> ranking = rank_arms(np.array([[0.1, 0.5, 0.6]] * 9), ["a", "b", "c"], dice, n_seeds=3)
        >>> ranking.ranks, ranking.groups
        ({'c': 1.0, 'b': 2.0, 'a': 3.0}, (('c', 'b'), ('b', 'a')))
    """
    n_cases, n_arms = means.shape
    if n_arms < MIN_ARMS or n_cases < 2 or np.isnan(means).any():
        raise ValueError(f"means: {n_cases} cases x {n_arms} arms; accepted: 2 x {MIN_ARMS} or more, without NaN")
    ranks = stats.rankdata(-means if score.higher_is_better else means, axis=1).mean(0)
    statistic, p = friedman(means)
    critical = critical_difference(n_arms, n_cases)
    # Without a difference among all, none between two is looked for.
    groups = not_told_apart(ranks, critical if p <= LEVEL else np.inf)
    return Ranking(
        score=score.key,
        ranks={arms[int(place)]: float(ranks[place]) for place in np.argsort(ranks, kind="stable")},
        groups=tuple(tuple(arms[place] for place in group) for group in groups),
        statistic=statistic,
        p=p,
        critical_difference=critical,
        n_cases=n_cases,
        n_seeds=n_seeds,
    )


def friedman(scores: Array) -> tuple[float, float]:
    """Friedman's chi-square of scores [C, A] and its p; 0 and 1 where all arms are equal in all cases."""
    if (scores == scores[:, :1]).all():
        return 0.0, 1.0
    result = stats.friedmanchisquare(*scores.T)
    return float(result.statistic), float(result.pvalue)


def critical_difference(n_arms: int, n_cases: int) -> float:
    """Return Nemenyi's critical difference of two average ranks at 0.05.

    Example:
        >>> round(critical_difference(4, 14), 2)  # Demsar's example
        1.25
    """
    return quantile(n_arms) * float(np.sqrt(n_arms * (n_arms + 1) / (6 * n_cases)))


@lru_cache(maxsize=64)
def quantile(n_arms: int) -> float:
    """Return q at 0.05 of Demsar's table 5a: of the studentized range for infinitely many degrees, by root 2."""
    return float(stats.studentized_range.isf(LEVEL, n_arms, np.inf)) / float(np.sqrt(2))


def not_told_apart(ranks: Sequence[float] | Array, critical: float) -> tuple[tuple[int, ...], ...]:
    """Return the largest groups of places whose ranks are all closer than the critical difference, best first.

    Example:
        >>> not_told_apart([1.0, 3.5, 2.0, 3.2], 1.3)
        ((0, 2), (2, 3), (3, 1))
    """
    order = np.argsort(ranks, kind="stable").tolist()
    groups: list[tuple[int, ...]] = []
    reached = 0
    for first, place in enumerate(order):
        last = max(at for at in range(first, len(order)) if ranks[order[at]] - ranks[place] < critical)
        if last > max(first, reached - 1):  # two or more, and not within the group before
            groups.append(tuple(order[first : last + 1]))
            reached = last + 1
    return tuple(groups)
