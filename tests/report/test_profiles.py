"""Performance profiles: a slow version, coverage of the band by simulation, ties, gaps, one case, less is better."""

import numpy as np
import pytest
from comparisons import SCORES
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from statsmodels.stats.proportion import proportion_confint

from distill3d.report.comparison.profiles import profile

DICE, HD95 = SCORES[:2]
SHARES = (0.1, 0.25, 0.5, 0.75, 0.9)
# standard deviations of cases, seeds and cells; seeds alone (0, 1, 0.1) are beyond any method with three of them
RATIOS = [(1, 0, 0.3), (0, 0, 1), (1, 0.5, 0.5), (0.3, 0.3, 1), (0, 0.5, 1)]
SIZES = [(5, 3), (8, 3), (20, 3), (20, 5)]


def wilson(share, n):
    return proportion_confint(share * n, n, method="wilson")


def drawn(rng, size, ratio):
    cases, seeds = size
    parts = (rng.normal(size=shape) for shape in ((cases, 1), (1, seeds), (cases, seeds)))
    return sum(sd * part for sd, part in zip(ratio, parts, strict=True))


def covered(size, ratio, *, n=150):
    """How often the band at the true quantile of each share holds the share, [shares]."""
    rng, sd = np.random.default_rng(0), np.sqrt(np.square(ratio).sum())
    hits = np.zeros(len(SHARES))
    for _ in range(n):
        curve = profile(drawn(rng, size, ratio), DICE, draws=399, points=1000)
        for k, share in enumerate(SHARES):
            tau = stats.norm.isf(share) * sd
            at = np.searchsorted(curve.taus, tau)  # the profile is constant up to the next score
            if at < len(curve.taus):
                low, high = curve.lows[at], curve.highs[at]
            else:
                low, high = wilson(0.0, size[0])
            hits[k] += low - 1e-9 <= share <= high + 1e-9
    return hits / n


@pytest.mark.parametrize("size", SIZES)
def test_the_band_covers_the_truth_in_at_least_90_percent_at_every_share(size):
    for ratio in RATIOS:
        curve = covered(size, ratio)
        assert curve.min() >= 0.9, (ratio, curve)
        assert curve.mean() >= 0.95, (ratio, curve)


def test_with_seeds_that_scatter_as_cases_do_the_band_is_too_narrow_but_no_fiction():
    """What the module says of its limits: three seeds are too few to resample."""
    curve = covered((50, 3), (1, 1, 1))
    assert 0.75 <= curve.min() < 0.92


def test_the_band_narrows_with_more_cases():
    rng = np.random.default_rng(1)
    widths = []
    for cases in (8, 30, 120):
        curve = profile(drawn(rng, (cases, 3), (1, 0, 0.3)), DICE)
        widths.append(np.mean(np.subtract(curve.highs, curve.lows)))
    assert widths[0] > 1.4 * widths[1] > 2 * widths[2]


def slow(table, taus, *, higher_is_better, draws=3000):
    """Shares and their percentile interval, pair by pair, with draws of its own."""
    rng = np.random.default_rng(99)
    cases, seeds = table.shape

    def share(tau, rows, columns):
        pairs = [table[i, j] for i in rows for j in columns if not np.isnan(table[i, j])]
        return np.mean([value >= tau if higher_is_better else value <= tau for value in pairs])

    shares = [share(tau, range(cases), range(seeds)) for tau in taus]
    resampled = np.array(
        [
            [share(tau, rows, columns) for tau in taus]
            for rows, columns in ((rng.integers(0, cases, cases), rng.integers(0, seeds, seeds)) for _ in range(draws))
        ]
    )
    return shares, *np.quantile(resampled, [0.025, 0.975], axis=0)


@pytest.mark.parametrize("score", [DICE, HD95], ids=["dice", "hd95"])
def test_shares_and_band_are_those_of_a_slow_version(score):
    table = drawn(np.random.default_rng(2), (6, 3), (1, 0.4, 0.4)).round(1)
    table[2, 1] = np.nan
    curve = profile(table, score, draws=20_000)
    shares, low, high = slow(table, curve.taus, higher_is_better=score.higher_is_better)
    assert curve.shares == pytest.approx(shares, abs=1e-4)
    least, most = wilson(np.array(shares), 6)
    assert curve.lows == pytest.approx(np.minimum(low, least), abs=0.06)
    assert curve.highs == pytest.approx(np.maximum(high, most), abs=0.06)
    assert curve.n_pairs == 17


def test_ties_are_one_step():
    curve = profile(np.array([[0.5, 0.5, 0.7], [0.5, 0.2, 0.7]]), DICE)
    assert curve.taus == (0.2, 0.5, 0.7)
    assert curve.shares == pytest.approx([1, 5 / 6, 2 / 6], abs=1e-4)


def test_less_is_better_counts_from_the_other_side():
    table = drawn(np.random.default_rng(3), (7, 3), (1, 0.2, 0.5))
    up, down = profile(table, DICE), profile(-table, HD95)
    assert down.taus == pytest.approx(np.negative(up.taus[::-1]))
    for name in ("shares", "lows", "highs"):
        assert getattr(down, name) == pytest.approx(getattr(up, name)[::-1], abs=1e-4)


@pytest.mark.parametrize("shape", [(1, 3), (6, 1), (1, 1)])
def test_one_case_or_one_seed_has_a_profile_and_no_band(shape):
    curve = profile(np.random.default_rng(4).uniform(size=shape), DICE)
    assert min(curve.shares) == pytest.approx(1 / curve.n_pairs, abs=1e-4)
    assert curve.lows == curve.highs == ()


def test_nothing_known_is_an_empty_profile():
    for table in (np.full((4, 3), np.nan), np.empty((0, 3))):
        curve = profile(table, DICE)
        assert (len(curve.taus), len(curve.shares), curve.lows, curve.n_pairs) == (0, 0, (), 0)


def test_cases_and_seeds_without_a_value_change_nothing():
    table = drawn(np.random.default_rng(5), (6, 3), (1, 0.2, 0.3))
    wider = np.full((8, 4), np.nan)
    wider[1:7, :3] = table
    one, other = (profile(each, DICE) for each in (table, wider))
    assert one == other


def test_a_draw_without_any_pair_breaks_nothing():
    sparse = np.array([[1.0, np.nan], [np.nan, 2.0]])
    curve = profile(sparse, DICE)
    assert np.isfinite([curve.lows, curve.highs]).all()


def test_the_same_table_gives_the_same_band_again():
    table = drawn(np.random.default_rng(6), (6, 3), (1, 1, 1))
    one, other = profile(table, DICE), profile(table.copy(), DICE)
    assert one == other


def test_many_scores_are_thinned_and_the_ends_kept():
    table = np.random.default_rng(7).normal(size=(40, 5))
    full, thin = profile(table, DICE, points=1000), profile(table, DICE, points=30)
    assert (len(full.taus), len(thin.taus)) == (200, 30)
    assert (thin.taus[0], thin.taus[-1]) == pytest.approx((table.min(), table.max()), rel=1e-5)
    assert set(thin.taus) <= set(full.taus)
    at = np.searchsorted(full.taus, thin.taus)
    assert thin.shares == tuple(full.shares[k] for k in at)
    assert np.max(-np.diff(thin.shares)) <= 8 / 200


tables = st.integers(0, 10_000).map(lambda seed: np.random.default_rng(seed).integers(0, 9, (5, 3)) / 4)


@given(tables)
def test_a_profile_falls_from_one_and_its_band_holds_it_within_zero_and_one(table):
    curve = profile(table, DICE, draws=99)
    assert curve.shares[0] == 1
    assert (np.diff(curve.shares) < 0).all()
    assert (np.diff([np.zeros_like(curve.shares), curve.lows, curve.shares, curve.highs], axis=0) >= 0).all()
    assert max(curve.highs) <= 1


def test_where_all_cases_agree_the_band_still_says_that_the_next_may_not():
    curve = profile(np.ones((10, 3)), DICE)
    assert curve.shares == (1.0,)
    assert curve.lows[0] == pytest.approx(0.722, abs=1e-3)  # Wilson's for 10 of 10
    assert curve.highs[0] == 1
