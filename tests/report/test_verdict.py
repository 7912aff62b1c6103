"""When a winner is named, when not, and what is said about it."""

import itertools
import re

import numpy as np
import pytest
from comparisons import SCORES, tables
from scipy.stats import ttest_ind

from distill3d.errors import InputError
from distill3d.evaluation.scores import Score
from distill3d.report.comparison.statistics import POOL_TEST, case_test, spread
from distill3d.report.comparison.verdict import estimate, in_words, judge, pick_test

DICE, HD95 = SCORES[:2]


def test_equal_arms_get_no_verdict_in_95_of_100():
    """50 studies of each kind; the share is over all, a kind alone may be off by what 50 studies scatter."""
    sizes, ratios = [(4, 3), (20, 3), (8, 5)], [(1, 0, 0.3), (0, 0, 1), (0, 1, 0.2), (0.3, 0.3, 1)]
    quiet = []
    for size, ratio in itertools.product(sizes, ratios):
        judged = [judge({"arm": one}, DICE)["arm"] for one in tables(50, size, ratio, seed=11)]
        quiet.append(np.mean([one.verdict == "INCONCLUSIVE" for one in judged]))
        assert quiet[-1] >= 0.9, (size, ratio)
    assert np.mean(quiet) >= 0.95


def test_none_of_five_equal_arms_gets_a_verdict_in_95_of_100_reports():
    quiet = 0
    for seed in range(100):
        arms = dict(zip("abcde", tables(5, (8, 3), (1, 0.3, 0.5), seed=100 + seed), strict=True))
        quiet += all(one.verdict == "INCONCLUSIVE" for one in judge(arms, DICE).values())
    assert quiet >= 95


def test_none_of_many_equal_arms_gets_a_verdict_where_four_cases_differ_much():
    """Resampling four cases has no p below 1 / 256 but none: by the bootstrap alone 18 of 100 reports named an arm."""
    quiet = 0
    for seed in range(60):
        arms = dict(enumerate(tables(18, (4, 3), (1, 0, 0.3), seed=500 + seed)))
        quiet += all(one.verdict == "INCONCLUSIVE" for one in judge(arms, DICE).values())
    assert quiet >= 56


def test_a_measured_gain_of_two_and_a_half_standard_errors_is_better_and_a_true_one_of_four_nearly_always():
    studies = tables(60, (50, 3), (1, 0, 0.3), seed=12, gain=0.6)
    verdicts = [judge({"arm": one}, DICE)["arm"].verdict for one in studies]
    assert verdicts.count("BETTER") >= 55
    checked = 0
    for one, verdict in zip(studies, verdicts, strict=True):
        sources = spread(one, pool=POOL_TEST)
        measured = sources.mean / sources.error
        if sources.df > 30 and measured > 2.5:
            checked += 1
            assert verdict == "BETTER"
        if measured < 1.8:
            assert verdict == "INCONCLUSIVE"
    assert checked > 30


def test_a_true_gain_of_two_standard_errors_of_an_arm_is_found_since_pairs_share_their_neuron():
    """What papers print behind "+-" is mostly how neurons differ: the same in both arms, so the pairs cancel it."""
    rng, (cases, seeds) = np.random.default_rng(17), (20, 5)
    of_case, of_seed, of_cell = 0.1, 0.01, 0.03  # Dice: neurons differ more than trainings of one arm do
    gain = 2 * np.sqrt(of_case**2 / cases + of_seed**2 / seeds + of_cell**2 / (cases * seeds))
    judged = seen_unpaired = 0
    for _ in range(100):
        neuron = of_case * rng.normal(size=(cases, 1))
        noise = of_seed * rng.normal(size=(2, 1, seeds)) + of_cell * rng.normal(size=(2, cases, seeds))
        baseline, arm = neuron + noise[0], neuron + gain + noise[1]
        judged += judge({"arm": arm - baseline}, DICE)["arm"].verdict == "BETTER"
        seen_unpaired += ttest_ind(arm.mean(1), baseline.mean(1)).pvalue <= 0.05
    assert judged >= 95
    assert seen_unpaired <= 50


def test_no_difference_is_told_that_two_scores_cannot_have():
    table = np.array([[-0.7, 0.6], [-0.6, 0.8], [-0.8, 0.7], [-0.6, 0.6]])
    (dice,) = judge({"arm": table}, DICE).values()
    (distance,) = judge({"arm": table}, HD95).values()
    assert min(distance.high, -distance.low, distance.detectable) > 1
    assert (dice.low, dice.high, dice.detectable) == (-1, 1, 1)


def test_the_interval_of_a_mean_ends_where_the_score_does():
    seeds_disagree = np.array([[0.1, 0.9], [0.0, 0.8], [0.2, 1.0], [0.1, 0.9]])

    dice, inside = estimate(seeds_disagree, DICE), estimate(0.5 + seeds_disagree / 1000, DICE)
    distance = estimate(100 * seeds_disagree, HD95)

    assert (dice.low, dice.mean, dice.high) == (0.0, pytest.approx(0.5), 1.0)
    assert distance.low == 0.0
    assert distance.high > 100
    assert 0.0 < inside.low < inside.mean < inside.high < 1.0


@pytest.mark.parametrize(("shape", "words"), [((6, 2), "2 seeds"), ((3, 3), "3 cases"), ((1, 1), "1 seed and 1 case")])
def test_with_too_little_no_winner_is_named_however_large_the_gain(shape, words):
    judged = judge({"arm": 1 + 1e-3 * np.random.default_rng(0).normal(size=shape)}, DICE)["arm"]
    assert judged.verdict == "INCONCLUSIVE"
    assert words in judged.why
    assert judged.mean == pytest.approx(1, abs=0.01)


def test_less_distance_is_better():
    less = -1 + 0.1 * np.random.default_rng(1).normal(size=(6, 3))
    assert judge({"arm": less}, HD95)["arm"].verdict == "BETTER"
    assert judge({"arm": less}, DICE)["arm"].verdict == "WORSE"


def test_identical_arms_are_inconclusive_without_a_warning():
    judged = judge({"arm": np.zeros((6, 3))}, DICE)["arm"]
    assert (judged.verdict, judged.why, judged.low, judged.high) == ("INCONCLUSIVE", "no case differs", 0, 0)
    assert judged.detectable is None


def test_the_same_gain_everywhere_is_a_gain():
    assert judge({"arm": np.full((6, 3), 0.1)}, DICE)["arm"].verdict == "BETTER"


def test_no_shared_pair_says_so():
    for table in (np.full((3, 3), np.nan), np.empty((0, 3)), np.empty((4, 0))):
        judged = judge({"arm": table}, DICE)["arm"]
        assert judged.mean is None
        assert "no case and seed" in judged.why


def test_many_arms_make_a_verdict_harder():
    one = 0.1 * tables(1, (10, 3), (1, 0, 0.3), seed=13, gain=0.9)[0]
    alone = judge({"arm": one}, DICE)["arm"]
    others = {f"other {k}": 0.1 * table for k, table in enumerate(tables(9, (10, 3), (1, 0, 0.3), seed=14))}
    among = judge({"arm": one, **others}, DICE)["arm"]
    assert among.p == alone.p
    assert among.p_holm == pytest.approx(min(1.0, 10 * alone.p_holm), rel=0.2)
    assert among.detectable > alone.detectable
    assert "Holm over 10 arms" in among.why


def test_an_arm_that_can_get_no_verdict_makes_those_of_others_no_harder():
    gain = tables(1, (6, 3), (1, 0.3, 0.5), seed=3, gain=1.0)[0]
    alone = judge({"arm": gain}, DICE)["arm"]
    beside = judge({"arm": gain, "of two seeds": gain[:, :2]}, DICE)
    assert beside["arm"] == alone
    assert alone.p_holm == alone.p
    assert beside["of two seeds"].verdict == "INCONCLUSIVE"


def test_seeds_that_disagree_prevent_a_verdict_that_cases_alone_would_give():
    cases = 0.01 * np.random.default_rng(15).normal(size=(20, 1))
    judged = judge({"arm": cases + np.array([0.3, 0.2, -0.1])}, DICE)["arm"]
    assert judged.p_cases < 0.001
    assert judged.verdict == "INCONCLUSIVE"


def test_one_case_without_values_is_left_out_and_one_gap_is_not():
    table = 1 + 0.1 * np.random.default_rng(16).normal(size=(7, 3))
    table[0] = np.nan
    table[1, 1] = np.nan
    judged = judge({"arm": table}, DICE)["arm"]
    assert judged.verdict == "BETTER"
    assert "6 of 6 cases and 3 of 3 seeds" in judged.why


def test_the_test_over_cases_that_was_asked_for_is_the_one_that_objects():
    """A few large gains carry the mean; ranks of the differences give the small losses more weight."""
    cases = np.array([0.07, -0.01, 0.1, -0.02, 0.09, 0.08, 0.16, -0.02, -0.01, 0.06])
    table = cases[:, None] + 1e-4 * np.random.default_rng(17).normal(size=(10, 3))
    flips, ranks = (judge({"arm": table}, DICE, test=test)["arm"] for test in ("sign-flip", "wilcoxon"))
    assert flips.p_holm == ranks.p_holm <= 0.05
    assert flips.p_cases <= 0.05 < ranks.p_cases == case_test(table.mean(1), method="wilcoxon")
    assert (flips.verdict, ranks.verdict) == ("BETTER", "INCONCLUSIVE")
    assert f"but cases disagree: Wilcoxon p = {ranks.p_cases:.3f}" in ranks.why


def test_what_would_be_missed_is_written_like_the_score_it_is_of():
    pieces = Score(key="betti0_error", label="Betti 0 error", digits=1)
    noise = 1000 * np.random.default_rng(5).normal(size=(4, 3))
    judged = judge({"arm": noise}, pieces)["arm"]
    assert f"below {judged.detectable:,.1f} would" in judged.why
    assert "e+" not in judged.why


def test_the_sign_flip_test_is_named_where_it_objects():
    cases = np.array([0.04, -0.002, 0.03, 0.02, 0.04, 0.06])
    table = cases[:, None] + 1e-4 * np.random.default_rng(3).normal(size=(6, 3))
    judged = judge({"arm": table}, DICE)["arm"]
    assert judged.p_holm <= 0.05
    assert judged.verdict == "INCONCLUSIVE"
    assert "but cases disagree: sign-flip p = 0.062" in judged.why


@pytest.mark.parametrize(("test", "words"), [("sign-flip", "a sign-flip test over"), ("wilcoxon", "Wilcoxon's signed")])
def test_the_description_names_the_test_over_cases(test, words):
    assert words in in_words(pick_test(test))


@pytest.mark.parametrize("test", ["sign-flip", "wilcoxon"])
@pytest.mark.parametrize("cases", [4, 5])
def test_the_description_says_how_small_p_over_so_few_cases_can_be(test, cases):
    agree = np.linspace(0.1, 0.2, cases)
    least = case_test(agree, method=test)
    assert case_test(np.append(agree[1:], -agree[0]), method=test) > least
    assert re.search(rf"{least}\s+with\s+{cases}\b", in_words(test))


@pytest.mark.parametrize("criterion", ["", "sign flip", "Wilcoxon", "t"])
def test_an_unknown_test_lists_the_known(criterion):
    with pytest.raises(InputError, match=f"{criterion!r}; accepted: sign-flip, wilcoxon"):
        pick_test(criterion)
