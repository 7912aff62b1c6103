"""Performance profiles: the share of pairs of case and seed that reach a score, over all scores. It reads no run.

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

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from distill3d.report.comparison.statistics import LEVEL, SEED, Array, interval, tidy

POINTS = 60  # of a profile, at most; a step is at least one in so many pairs then
DRAWS = 2_000


@dataclass(frozen=True, kw_only=True, slots=True)
class Steps:
    """A profile at the scores where it may change, ascending; between two of them it is constant.

    Attributes:
        taus: [T], scores that a pair has.
        shares: [T], of pairs that are at least as good.
        low: [T], end of the pointwise 95 % band; None below two cases and two seeds.
        high: [T], the other end.
        n_pairs: that have a value.
    """

    taus: Array
    shares: Array
    low: Array | None
    high: Array | None
    n_pairs: int


def profile(
    table: Array, *, higher_is_better: bool, points: int = POINTS, draws: int = DRAWS, seed: int = SEED
) -> Steps:
    """Return what share of pairs reaches which score.

    Args:
        table: scores [C, S] of one arm, NaN where a pair has no value: it counts nowhere.
        higher_is_better: whether reaching is ``>=``; else it is ``<=``.
        points: of the profile; where there are more, evenly many scores are left out between two.
        draws: of the bootstrap.
        seed: of the draws, the same for every arm.

    Example:
        >>> found = profile(np.array([[0.2, 0.5], [0.5, 0.9]]), higher_is_better=True)
        >>> found.taus.tolist(), found.shares.tolist()
        ([0.2, 0.5, 0.9], [1.0, 0.75, 0.25])
    """
    table = tidy(table)
    known = ~np.isnan(table)
    taus = _thinned(np.unique(table[known]), points)
    reached = table >= taus[:, None, None] if higher_is_better else table <= taus[:, None, None]
    shares = reached.sum((-2, -1)) / max(known.sum(), 1)
    low = high = None
    if min(table.shape) > 1:
        low, high = interval(_drawn(reached, known, shares, draws, seed))
        least, most = wilson(shares, len(table))
        low, high = np.minimum(low, least), np.maximum(high, most)
    return Steps(taus=taus, shares=shares, low=low, high=high, n_pairs=int(known.sum()))


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


def wilson(share: Array, n: int) -> tuple[Array, Array]:
    """Return the 95 % interval of a share of n independent trials (Wilson 1927), in [0, 1].

    Example:
        >>> [round(float(end), 3) for end in wilson(np.array(1.0), 10)]  # all of ten
        [0.722, 1.0]
    """
    z = stats.norm.isf(LEVEL / 2)
    middle = (share + z**2 / (2 * n)) / (1 + z**2 / n)
    half = z * np.sqrt(share * (1 - share) / n + z**2 / (4 * n**2)) / (1 + z**2 / n)
    return np.clip(middle - half, 0, 1), np.clip(middle + half, 0, 1)
