"""Ranks and critical differences: Demsar's own numbers, a slow version, and what they do at their edges."""

import itertools

import numpy as np
import pytest
from comparisons import SCORES
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from distill3d.report.comparison.ranks import critical_difference, friedman, not_told_apart, quantile, rank_arms

DICE, HD95 = SCORES[:2]
# Demsar 2006, table 6: AUC of C4.5, with m, with cf, with both. In `voting` the last two round to 0.975 and rank 2, 3.
DEMSAR = np.array([
    [0.763, 0.768, 0.771, 0.798], [0.599, 0.591, 0.590, 0.569], [0.954, 0.971, 0.968, 0.967],
    [0.628, 0.661, 0.654, 0.657], [0.882, 0.888, 0.886, 0.898], [0.936, 0.931, 0.916, 0.931],
    [0.661, 0.668, 0.609, 0.685], [0.583, 0.583, 0.563, 0.625], [0.775, 0.838, 0.866, 0.875],
    [1.000, 1.000, 1.000, 1.000], [0.940, 0.962, 0.965, 0.962], [0.619, 0.666, 0.614, 0.669],
    [0.972, 0.981, 0.9754, 0.975], [0.957, 0.978, 0.946, 0.970],
])  # fmt: skip


def ranked(means, score=DICE):
    """Rank arms that are called 0, 1, ..."""
    return rank_arms(means, range(means.shape[1]), score, n_seeds=3)


def in_place(ranking):
    """Ranks in the order of the arms as they were given."""
    return [ranking.ranks[arm] for arm in sorted(ranking.ranks)]


def slow_ranks(row):
    """1 and how many are larger, and half of how many others are equal."""
    return [1 + sum(b > a for b in row) + (sum(b == a for b in row) - 1) / 2 for a in row]


def plain_chi_square(ranks, n_cases):
    n = len(ranks)
    return 12 * n_cases / (n * (n + 1)) * (np.square(ranks).sum() - n * (n + 1) ** 2 / 4)


def test_demsars_example_has_his_ranks_chi_square_and_critical_difference():
    result = ranked(DEMSAR)
    assert in_place(result) == pytest.approx([3.143, 2.000, 2.893, 1.964], abs=5e-4)
    assert plain_chi_square(in_place(result), 14) == pytest.approx(9.28, abs=5e-3)
    assert result.critical_difference == pytest.approx(1.25, abs=5e-3)
    # his Friedman test has no correction for ties, scipy's has: the same number over what ties leave of the variance
    ties = sum(n**3 - n for row in DEMSAR for n in np.unique(row, return_counts=True)[1])
    assert result.statistic * (1 - ties / (14 * (4**3 - 4))) == pytest.approx(9.28, abs=5e-3)


def test_the_quantiles_are_those_of_his_table():
    table = [1.960, 2.343, 2.569, 2.728, 2.850, 2.949, 3.031, 3.102, 3.164]
    assert [quantile(n) for n in range(2, 11)] == pytest.approx(table, abs=1.5e-3)


def test_ranks_are_those_counted_by_hand():
    slow = np.mean([slow_ranks(row) for row in DEMSAR], axis=0)
    assert in_place(ranked(DEMSAR)) == pytest.approx(slow)
    assert in_place(ranked(-DEMSAR, HD95)) == pytest.approx(slow)


def test_arms_that_are_equal_everywhere_share_a_rank_and_a_group():
    result = ranked(np.ones((6, 4)))
    assert in_place(result) == [2.5] * 4
    assert (result.statistic, result.p, result.groups) == (0.0, 1.0, ((0, 1, 2, 3),))


def test_no_pair_is_told_apart_where_friedmans_test_finds_nothing():
    """Two arms of six may be further apart than the critical difference though all six together are not."""
    rng, seen = np.random.default_rng(0), 0
    for _ in range(400):
        result = ranked(rng.normal(size=(5, 6)))
        if result.p > 0.05:
            seen += np.ptp(in_place(result)) > result.critical_difference
            assert result.groups == (tuple(result.ranks),)
    assert seen > 0  # else the rule was not needed


def test_equal_arms_are_told_apart_in_at_most_5_percent():
    rng = np.random.default_rng(1)
    result = [ranked(rng.normal(size=(12, 5))) for _ in range(600)]
    apart = np.mean([one.groups != (tuple(one.ranks),) for one in result])
    assert apart <= 0.06


def test_a_clear_order_leaves_only_neighbors_together():
    scores = np.arange(5.0) + 0.1 * np.random.default_rng(2).normal(size=(20, 5))
    result = ranked(scores)
    assert result.p < 0.001
    assert result.groups == ((4, 3), (3, 2), (2, 1), (1, 0))  # 1.36 apart at least to differ


def slow_groups(ranks, critical):
    """All sets of neighbors in rank that lie within the critical difference, without those inside another."""
    order = sorted(range(len(ranks)), key=lambda place: ranks[place])
    runs = [order[a:b] for a, b in itertools.combinations(range(len(order) + 1), 2) if b - a > 1]
    close = [run for run in runs if ranks[run[-1]] - ranks[run[0]] < critical]
    return [run for run in close if not any(set(run) < set(other) for other in close)]


@given(st.lists(st.integers(0, 40), min_size=2, max_size=9), st.floats(0.05, 12))
def test_groups_are_the_largest_sets_within_the_critical_difference(tenths, critical):
    ranks = [tenth / 4 for tenth in tenths]
    assert [list(group) for group in not_told_apart(ranks, critical)] == slow_groups(ranks, critical)


def test_more_cases_make_the_critical_difference_smaller_and_more_arms_larger():
    assert critical_difference(4, 56) == pytest.approx(critical_difference(4, 14) / 2)
    assert critical_difference(6, 14) > critical_difference(4, 14)


def test_friedmans_p_is_that_of_chi_square():
    statistic, p = friedman(DEMSAR)
    assert p == pytest.approx(stats.chi2.sf(statistic, 3))


@pytest.mark.parametrize("scores", [np.ones((6, 2)), np.ones((1, 4)), np.full((6, 4), np.nan)])
def test_too_little_or_a_gap_is_refused(scores):
    with pytest.raises(ValueError, match="accepted: 2 x 3 or more, without NaN"):
        ranked(scores)
