"""Paired differences of two arms: mean, interval, test, smallest detectable difference, verdict. It reads no run.

A table of differences has a row per case and a column per seed, a seed being one training of each arm. Both are
samples: of the neurons one could have held out, and of the trainings one could have made. A seed that went badly is bad
on all cases, so columns share errors as well as rows, and a method that resamples cases alone takes luck for skill.

What was tried, on simulated tables of 5 to 50 cases and 3 or 5 seeds (``tests/report/test_statistics.py``):

* Resampling cases, then seeds within each case, knows nothing of bad seeds: its interval is far too short. Resampling
  cases and seeds at once (Owen 2007, *The pigeonhole bootstrap*) counts the noise of a cell up to three times.
* So the bootstrap here first resamples cases, scaled to what they scatter beyond the noise of the cells, then adds
  seeds with that noise: the variance of the mean is ``(MS_cases + MS_seeds - MS_cells) / (C S)``, the textbook
  one of two crossed random factors (Searle, Casella and McCulloch 1992, *Variance Components*).
* A plain percentile interval is too short below 20 cases; Hesterberg 2015, *What Teachers Should Know About the
  Bootstrap*, expands it by the t quantile. Here each level is expanded by the t distribution of its own degrees of
  freedom, and the levels are added, as Behrens and Fisher do for two unknown variances. Three seeds are too few to
  resample, they have ten distinct means; their level is drawn from t alone.
* With three seeds the t distribution has two degrees of freedom, and an interval that always carries them is twice as
  long as needed where seeds do not matter. A level with no sign of an effect (F test, p above `POOL`) is therefore
  pooled (Bancroft 1964, *Analysis and inference for incompletely specified models*); `POOL` keeps coverage within 92
  to 98 %. The test pools less (`POOL_TEST`), so that equal arms get a verdict in at most about 5 % also where seeds
  matter a little; its p can be above 0.05 where the interval just excludes zero.
* Folds are pooled into one table, whose cells of a fold and seed share a training. With one case per fold that is noise
  of the cell. With three, and trainings as noisy as cells, or twice as much, it shows in the seeds: of 400 tables each
  95 to 98 % of intervals held the truth. What they cannot see is that cases of a fold share their training neurons: if
  these shift a difference as much as the tested neuron does, 85 to 94 % did, and p was at most 0.05 in 4 to 13 %.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy import stats
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.power import TTestPower

Array = NDArray[np.float64]
LEVEL = 0.05  # of the test; the interval is that of 1 - LEVEL
POWER = 0.8
POOL = 0.35  # for intervals
POOL_TEST = 0.6  # for p: a verdict must be wrong in at most 5 of 100, and may be careful; an interval may not
DRAWS = 10_000
SEED = 20_240_229
CaseTest = Literal["sign-flip", "wilcoxon"]
FLIPS = 9_999  # sign flips drawn where there are more than that


@dataclass(frozen=True, kw_only=True, slots=True)
class Spread:
    """A mean, and how far it may be from the truth, by where that comes from; arrays share their leading axes.

    Attributes:
        mean: [...], each case and each seed with equal weight.
        case_effects: [..., C], mean of each case minus the mean of all.
        of_cases: [...], variance of the mean from cases; with the noise of the cells where seeds have no effect.
        of_seeds: [...], what seeds add, the noise of the cells with them.
        of_cells: [...], variance where neither cases nor seeds have an effect; the other two are 0 then.
        df_cells: [...], degrees of freedom of that.
        n_seeds: S.
    """

    mean: Array
    case_effects: Array
    of_cases: Array
    of_seeds: Array
    of_cells: Array
    df_cells: Array
    n_seeds: int

    @property
    def error(self) -> Array:
        """[...], standard error of the mean."""
        return np.sqrt(self.of_cases + self.of_seeds + self.of_cells)

    @property
    def df(self) -> Array:
        """[...], degrees of freedom of `error` (Satterthwaite 1946); inf where there is no error."""
        n_cases = self.case_effects.shape[-1]
        parts = (self.of_cases, n_cases - 1), (self.of_seeds, self.n_seeds - 1), (self.of_cells, self.df_cells)
        below = sum(np.square(variance) / df for variance, df in parts)
        return np.divide(self.error**4, below, out=np.full_like(self.error, np.inf), where=below > 0)


def tidy(table: Array) -> Array:
    """Drop cases and seeds without any value from [C, S]."""
    known = ~np.isnan(table)
    return table[known.any(1)][:, known.any(0)]


def fill(table: Array) -> tuple[Array, NDArray[np.intp]]:
    """Fill the gaps of tables with what their row and column say: the missing-plot technique.

    Source: Yates 1933, The analysis of replicated experiments when the field results are incomplete. Least squares of
    the additive model; the cells filled count as no observation afterwards.

    Args:
        table: [..., C, S]; NaN is a gap. No row and no column is all gaps.

    Returns:
        [..., C, S] without gaps, and [...] the number of gaps.

    Example:
        >>> fill(np.array([[1.0, 2.0], [3.0, np.nan], [5.0, 6.0]]))[0][1, 1].round(6)
        np.float64(4.0)
    """
    gaps = np.isnan(table)
    if not gaps.any():
        return table, gaps.sum((-2, -1))
    filled = np.where(gaps, np.nanmean(table, axis=(-2, -1), keepdims=True), table)
    for _ in range(500):
        rows, columns = filled.mean(-1, keepdims=True), filled.mean(-2, keepdims=True)
        fitted = rows + columns - filled.mean((-2, -1), keepdims=True)
        moved = np.abs(np.where(gaps, fitted - filled, 0)).max()
        filled = np.where(gaps, fitted, filled)
        if moved <= 1e-12 * np.abs(filled).max():
            break
    return filled, gaps.sum((-2, -1))


def spread(table: Array, *, pool: float = POOL) -> Spread:
    """Split the error of a mean over cases and seeds into its sources.

    Args:
        table: [..., C, S], at least 2 x 2, and fewer gaps (NaN) than (C - 1)(S - 1).
        pool: p above which a level counts as having no effect of its own.
    """
    table, gaps = fill(table)
    n_cases, n_seeds = table.shape[-2:]
    mean = table.mean((-2, -1))
    cases, seeds = table.mean(-1) - mean[..., None], table.mean(-2) - mean[..., None]
    rest = table - mean[..., None, None] - cases[..., :, None] - seeds[..., None, :]
    df_cases, df_seeds, df_rest = n_cases - 1, n_seeds - 1, (n_cases - 1) * (n_seeds - 1) - gaps
    sums = n_seeds * (cases**2).sum(-1), n_cases * (seeds**2).sum(-1), (rest**2).sum((-2, -1))
    of_cases, of_seeds, noise = sums[0] / df_cases, sums[1] / df_seeds, sums[2] / df_rest
    # written without a quotient: there may be no noise at all
    has_cases = of_cases > noise * stats.f.isf(pool, df_cases, df_rest)
    has_seeds = of_seeds > noise * stats.f.isf(pool, df_seeds, df_rest)
    df_cells = df_cases + df_seeds + df_rest
    # where both have an effect, the noise of the cells is in both, and counts once: with the seeds, which are few
    of_cases = np.where(has_seeds, np.maximum(of_cases - noise, 0), of_cases)
    n = n_cases * n_seeds
    return Spread(
        mean=mean,
        case_effects=cases,
        of_cases=np.where(has_cases, of_cases, 0) / n,
        of_seeds=np.where(has_seeds, of_seeds, 0) / n,
        of_cells=np.where(has_cases | has_seeds, 0, sum(sums) / df_cells) / n,
        df_cells=df_cells,
        n_seeds=n_seeds,
    )


def draw_means(parts: Spread, *, draws: int = DRAWS, seed: int = SEED) -> Array:
    """Draw means as other cases and other seeds could have given them: [draws, ...]; percentiles are the interval.

    The draws are the same for every arm, so that equal tables give equal intervals.
    """
    n_cases = parts.case_effects.shape[-1]
    ahead = (draws,) + (1,) * parts.mean.ndim
    t_seeds = _t_draws(parts.n_seeds - 1, draws, seed + 1).reshape(ahead)
    normal = _t_draws(0, draws, seed + 2).reshape(ahead)  # cells are many: no expansion is needed
    resampled = _expanded(_resampled(parts.case_effects, draws, seed), n_cases - 1)
    return (
        parts.mean
        + np.sqrt(parts.of_cases) * resampled
        + np.sqrt(parts.of_seeds) * t_seeds
        + np.sqrt(parts.of_cells) * normal
    )


def _resampled(effects: Array, draws: int, seed: int) -> Array:
    """Bootstrap means of centered effects [..., C], in units of their standard deviation: [draws, ...]."""
    n = effects.shape[-1]
    means = np.tensordot(_counts(n, draws, seed), effects, axes=(1, effects.ndim - 1)) / n
    sd = np.sqrt((effects**2).mean(-1) / n)
    return np.divide(means, sd, out=np.zeros_like(means), where=sd > 0)


@lru_cache(maxsize=8)
def _counts(n: int, draws: int, seed: int) -> Array:
    """How often each of n cases is in each resample."""
    return np.random.default_rng(seed).multinomial(n, np.full(n, 1 / n), draws).astype(np.float64)


@lru_cache(maxsize=16)
def _t_draws(df: int, draws: int, seed: int) -> Array:
    """Quantiles of t at equal steps, shuffled, so that their percentiles have no sampling error; normal for df = 0."""
    shares = (np.random.default_rng(seed).permutation(draws) + 0.5) / draws
    return stats.t.ppf(shares, df) if df else stats.norm.ppf(shares)


def _expanded(scores: Array, df: int) -> Array:
    """Turn normal scores into those of t at the same probability."""
    nodes, values = _expansion(df)
    return np.interp(scores, nodes, values)


@lru_cache(maxsize=16)
def _expansion(df: int) -> tuple[Array, Array]:
    nodes = np.linspace(-6, 6, 1201)
    return nodes, stats.t.ppf(stats.norm.cdf(nodes), df)


def interval(means: Array) -> tuple[Array, Array]:
    """Return the ends of the 95 % interval of [draws, ...] drawn means."""
    low, high = np.quantile(means, [LEVEL / 2, 1 - LEVEL / 2], axis=0)
    return low, high


def p_value(means: Array) -> Array:
    """Two-sided p of a mean of zero: twice the share of draws beyond zero; 1 where no draw differs from zero."""
    fewer = np.minimum((means <= 0).sum(0), (means >= 0).sum(0))
    return np.minimum(1.0, 2 * (fewer + 1) / (len(means) + 1))


def careful_p(parts: Spread) -> Array:
    """Two-sided p of a mean of zero by the bootstrap, but never below that of the t test with the same error.

    Resamples of four cases end at the worst case: where all four point the same way, the bootstrap knows no p between
    0.004 and none at all, and Holm's correction over many arms asks for smaller ones.
    """
    ratio = np.divide(np.abs(parts.mean), parts.error, out=np.zeros_like(parts.error), where=parts.error > 0)
    of_t = np.where(parts.error > 0, 2 * stats.t.sf(ratio, parts.df), 0.0)
    return np.maximum(p_value(draw_means(parts)), of_t)


def case_test(means: Array, *, method: CaseTest = "sign-flip") -> float:
    """Two-sided paired test over cases; it takes the seeds as they are, so by itself it decides nothing.

    Exact for up to 13 cases, with drawn flips above. Its smallest p with C cases is ``2 ** (1 - C)``: 0.0625 for five.

    Args:
        means: [C], mean difference of each case.
        method: ``sign-flip`` (Fisher 1935, The Design of Experiments, section 21) of the mean, or ``wilcoxon`` (1945).

    Example:
        >>> case_test(np.array([0.1, 0.2, 0.1, 0.3, 0.2]))
        0.0625
    """
    if not np.any(means):
        return 1.0
    if method == "wilcoxon":
        # scipy's stub knows no class for what it returns
        return float(stats.wilcoxon(means).pvalue)  # pyright: ignore[reportAttributeAccessIssue]
    result = stats.permutation_test(
        (means,), np.mean, permutation_type="samples", n_resamples=FLIPS, vectorized=True, rng=SEED
    )
    return float(result.pvalue)


def holm(p: Sequence[float]) -> list[float]:
    """Correct p values for being several (Holm 1979)."""
    if len(p) < 2:  # the library would collect garbage first, 40 ms
        return list(p)
    return np.asarray(multipletests(p, method="holm")[1], dtype=np.float64).tolist()


def detectable(error: float, df: float, *, n_arms: int = 1) -> float:
    """Smallest true difference that the t test finds in four studies of five, at the first step of Holm's correction.

    Args:
        error: standard error of the mean difference.
        df: its degrees of freedom.
        n_arms: compared with the baseline.

    Example:
        >>> round(detectable(1.0, 1e6), 2)  # 1.96 + 0.84
        2.8
    """
    if not 0 < df < np.inf or error == 0:
        return 0.0
    # One-sided: a significant difference on the other side is of no account at this power.
    alpha = LEVEL / n_arms / 2
    effect = TTestPower().solve_power(nobs=df + 1, alpha=alpha, power=POWER, alternative="larger")
    return error * float(np.asarray(effect)) * float(np.sqrt(df + 1))
