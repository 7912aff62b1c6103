"""Performance profiles: the share of pairs of case and seed that reach a score, over all scores.

Source: Agarwal et al. 2021, *Deep Reinforcement Learning at the Edge of the Statistical Precipice*, section 4.2 (arXiv
2108.13264); Dolan and More 2002. There tasks are fixed and runs are resampled within each. Here the cases are a sample
too, and a seed is one training, which is bad on all cases if it is bad: the bootstrap draws cases, then seeds, and
every drawn case is seen under the same drawn seeds.

Resampling alone says that nothing else is possible where all pairs agree. The band is therefore never narrower than
the interval of Wilson 1927 for as many trials as there are cases. By simulation (``tests/report/test_profiles.py``) it
covers the truth in 90 % or more at every share, and mostly in 97 %; where trainings scatter as much as cases do, three
seeds are too few to resample, and with 50 cases it is 80 % to 92 %.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from statsmodels.stats.proportion import proportion_confint

from distill3d.evaluation.scores import Score
from distill3d.report.comparison.statistics import LEVEL, SEED, Array, interval, tidy
from distill3d.report.content import Profile

POINTS = 60  # of a profile, at most; a step is at least one in so many pairs then
DRAWS = 2_000
DIGITS = 6  # of a score: enough for a picture, and half the bytes
PLACES = 4  # of a share, likewise


def profile(
    table: Array, score: Score, *, arm: str = "", points: int = POINTS, draws: int = DRAWS, seed: int = SEED
) -> Profile:
    """Return what share of pairs reaches which score.

    Args:
        table: scores [C, S] of one arm, NaN where a pair has no value: it counts nowhere.
        score: says whether reaching is ``>=`` or ``<=``.
        arm: its name.
        points: of the profile; where there are more, evenly many scores are left out between two.
        draws: of the bootstrap.
        seed: of the draws, the same for every arm.

    Example:
        >>> dice = Score(key="dice", label="Dice", unit="", higher_is_better=True, digits=3)
        >>> curve = profile(np.array([[0.2, 0.5], [0.5, 0.9]]), dice)
        >>> curve.taus, curve.shares
        ((0.2, 0.5, 0.9), (1.0, 0.75, 0.25))
    """
    table = tidy(table)
    known = ~np.isnan(table)
    taus = _thinned(np.unique(table[known]), points)
    reached = table >= taus[:, None, None] if score.higher_is_better else table <= taus[:, None, None]
    shares = reached.sum((-2, -1)) / max(known.sum(), 1)
    low = high = np.empty(0)
    if min(table.shape) > 1:
        low, high = interval(_drawn(reached, known, shares, draws, seed))
        least, most = proportion_confint(shares * len(table), len(table), alpha=LEVEL, method="wilson")
        low, high = np.minimum(low, least), np.maximum(high, most)
    return Profile(
        arm=arm,
        score=score.key,
        taus=tuple(float(f"{tau:.{DIGITS}g}") for tau in taus),
        shares=_rounded(shares),
        lows=_rounded(low),
        highs=_rounded(high),
        n_pairs=int(known.sum()),
    )


def _rounded(shares: Array) -> tuple[float, ...]:
    return tuple(shares.round(PLACES).tolist())


def _thinned(values: Array, points: int) -> Array:
    """Keep the least, the largest, and of the rest evenly many."""
    if len(values) <= points:
        return values
    return values[np.linspace(0, len(values) - 1, points).round().astype(int)]


def _drawn(reached: NDArray[np.bool_], known: NDArray[np.bool_], shares: Array, draws: int, seed: int) -> Array:
    """Shares [draws, T] with cases and seeds drawn; a draw that no pair has a value in says what the sample does."""
    weights = _weights(*known.shape, draws, seed)
    hits = weights @ reached.reshape(len(reached), -1).T.astype(np.float64)
    pairs = (weights @ known.ravel().astype(np.float64))[:, None]
    return np.divide(hits, pairs, out=np.broadcast_to(shares, hits.shape).copy(), where=pairs > 0)


@lru_cache(maxsize=8)
def _weights(n_cases: int, n_seeds: int, draws: int, seed: int) -> Array:
    """How often each pair is in each resample, [draws, C S]."""
    rng = np.random.default_rng(seed)
    cases, seeds = (rng.multinomial(n, np.full(n, 1 / n), draws) for n in (n_cases, n_seeds))
    return (cases[:, :, None] * seeds[:, None, :]).reshape(draws, -1).astype(np.float64)
