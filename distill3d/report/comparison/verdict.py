"""Names a winner, or says why none is named. It holds the rule; the numbers are `statistics`'.

An arm is BETTER or WORSE in a score only if all of this holds:

1. it shares at least `MIN_SEEDS` seeds and `MIN_CASES` cases with the baseline;
2. p of the two-level bootstrap, and that of the t test with the same error, are at most 0.05 after Holm's
   correction over the arms;
3. a test over cases, sign-flip or Wilcoxon, does not object: its p is at most 0.05, or as small as it can be with so
   few cases (four cases cannot go below 0.125: then all four must point the same way).

By simulation (``tests/report/test_verdict.py``) at least 95 of 100 equal arms get no verdict, and so do 95 of 100
reports with five arms, or with 18 of four cases. A true gain of two standard errors of an arm's own mean, mostly how
neurons differ, is found in 95 of 100 studies of 20 cases and 5 seeds, since both arms share their neurons; a comparison
without pairs finds it in less than half. In units of the standard error of the difference itself the level of 5 % sets
the bound: no test finds a true gain of two more often than every other time; this one finds 2.8 in about three studies
of four where cases are many.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import numpy as np

from distill3d.errors import InputError
from distill3d.evaluation.scores import Score
from distill3d.report.comparison.statistics import (
    LEVEL,
    POOL_TEST,
    Array,
    CaseTest,
    careful_p,
    case_test,
    detectable,
    draw_means,
    holm,
    interval,
    spread,
    tidy,
)
from distill3d.report.content import Difference, Estimate, Verdict
from distill3d.report.numerals import number, probability

MIN_SEEDS = 3
MIN_CASES = 4
CASE_TESTS: Mapping[CaseTest, tuple[str, str]] = {  # as they are called in a sentence, and before a p
    "sign-flip": ("a sign-flip test", "sign-flip"),
    "wilcoxon": ("Wilcoxon's signed-rank test", "Wilcoxon"),
}
DEFAULT_TEST: CaseTest = "sign-flip"


def pick_test(wanted: str) -> CaseTest:
    """Return the test over cases of that name.

    Raises:
        InputError: there is none; lists those there are.

    Example:
        >>> pick_test("wilcoxon")
        'wilcoxon'
    """
    for name in CASE_TESTS:
        if name == wanted:
            return name
    raise InputError(f"--test: no test over cases is called {wanted!r}; accepted: {', '.join(CASE_TESTS)}")


def in_words(test: CaseTest) -> str:
    """Say in one sentence how interval, p and verdict come about."""
    return (
        "Mean of arm minus baseline over shared cases and seeds; 95 % interval by a bootstrap over cases, then seeds, "
        "expanded by the t distribution of each; two-sided p, the larger of this bootstrap's and the t test's; Holm's "
        f"correction over arms; no verdict below {MIN_SEEDS} seeds and {MIN_CASES} cases, at a corrected p above 0.05, "
        f"or where {CASE_TESTS[test][0]} over cases objects: its p cannot be below 0.125 with 4 cases and 0.0625 with "
        "5, so there it asks only that all cases agree, and the verdict rests on the t distribution."
    )


def estimate(table: Array, score: Score) -> Estimate:
    """Describe scores [C, S] of one arm, NaN where a pair has no value; the interval ends where the score does."""
    tidied = tidy(table)
    n_cases, n_seeds = tidied.shape
    seed_means = np.nanmean(tidied, 0)
    mean, low, high = _mean_and_interval(tidied)
    least, most = score.bounds
    return Estimate(
        mean=mean,
        low=None if low is None else max(low, least),
        high=None if high is None else min(high, most),
        sd_seeds=float(np.std(seed_means, ddof=1)) if n_seeds > 1 else None,
        n_cases=n_cases,
        n_seeds=n_seeds,
        n_missing=int(np.isnan(table).sum()),
    )


def judge(
    tables: Mapping[str, Array], score: Score, *, test: CaseTest = DEFAULT_TEST, what: str = "arms"
) -> dict[str, Difference]:
    """Judge all arms of a report in one score.

    Args:
        tables: by arm: differences from the baseline, [C, S], NaN where a pair has no value.
        score: says whether a positive difference is a gain.
        test: over cases, which may object to a verdict.
        what: the tables are called, over which Holm's correction is.

    Example:
        >>> dice = Score(key="dice", label="Dice", unit="", higher_is_better=True, digits=3)
        >>> gain = 0.1 + 0.01 * np.random.default_rng(0).normal(size=(6, 3))
        >>> judged = judge({"arm": gain, "same": 0 * gain, "two seeds": gain[:, :2]}, dice)
        >>> [one.verdict for one in judged.values()]
        ['BETTER', 'INCONCLUSIVE', 'INCONCLUSIVE']
        >>> judged["two seeds"].why
        'only 2 seeds; no verdict below 3 seeds and 4 cases'
    """
    tidied = {arm: tidy(table) for arm, table in tables.items()}
    tested = {arm: _tested(arm, score, table, test) for arm, table in tidied.items()}
    with_p = {arm: one.p for arm, one in tested.items() if one.p is not None and not _too_few(one)}
    n_arms = max(1, len(with_p))
    corrected_over = f" (Holm over {n_arms} {what})" if n_arms > 1 else ""
    corrected = dict(zip(with_p, holm(list(with_p.values())), strict=True))
    return {
        arm: _named(
            dataclasses.replace(tested[arm], p_holm=corrected.get(arm), detectable=_smallest(table, n_arms, score)),
            table,
            score,
            corrected_over=corrected_over,
            test=test,
        )
        for arm, table in tidied.items()
    }


def _tested(arm: str, score: Score, table: Array, test: CaseTest) -> Difference:
    """Test whether the mean of a tidy table is zero, before arms are weighed against each other."""
    mean, low, high = _mean_and_interval(table)
    span = _span(score)  # scores lie no farther apart
    testable = _has_interval(table)
    return Difference(
        arm=arm,
        score=score.key,
        mean=mean,
        low=None if low is None else max(low, -span),
        high=None if high is None else min(high, span),
        p=float(careful_p(spread(table, pool=POOL_TEST))) if testable else None,
        n_cases=table.shape[0],
        n_seeds=table.shape[1],
        p_cases=case_test(np.nanmean(table, 1), method=test) if testable else None,
    )


def _has_interval(table: Array) -> bool:
    n_cases, n_seeds = table.shape
    return min(n_cases, n_seeds) > 1 and np.isnan(table).sum() < (n_cases - 1) * (n_seeds - 1)


def _mean_and_interval(table: Array) -> tuple[float | None, float | None, float | None]:
    """Return the mean of a tidy table and the ends of its 95 % interval; None where too little is known."""
    if not table.size:
        return None, None, None
    if not _has_interval(table):
        return float(np.nanmean(table, 1).mean()), None, None
    sources = spread(table)
    low, high = interval(draw_means(sources))
    return float(sources.mean), float(low), float(high)


def _smallest(table: Array, n_arms: int, score: Score) -> float | None:
    """Return the smallest difference that would be found; None where too little is known, or nothing scatters."""
    if not _has_interval(table):
        return None
    careful = spread(table, pool=POOL_TEST)
    if careful.error <= 0:
        return None
    return min(detectable(float(careful.error), float(careful.df), n_arms=n_arms), _span(score))


def _span(score: Score) -> float:
    """Return how far apart two values of a score can be."""
    least, most = score.bounds
    return most - least


def _named(one: Difference, table: Array, score: Score, *, corrected_over: str, test: CaseTest) -> Difference:
    """Add the verdict, and what decided."""
    if one.mean is None or one.p_holm is None:
        return dataclasses.replace(one, why=_too_few(one))
    said = f"p {probability(one.p_holm, equals=True)}{corrected_over}"
    if objection := _objection(one, one.p_holm, said, table, score, test):
        return dataclasses.replace(one, why=objection)
    verdict: Verdict = "BETTER" if (one.mean > 0) == score.higher_is_better else "WORSE"
    return dataclasses.replace(one, verdict=verdict, why=f"{said}; {_agreement(one.mean, table)}")


def _too_few(one: Difference) -> str:
    n_cases, n_seeds = one.n_cases, one.n_seeds
    if not n_cases:
        return "no case and seed that both arms have a value for"
    short = [f"{n_seeds} seed{'s' * (n_seeds > 1)}"] if n_seeds < MIN_SEEDS else []
    short += [f"{n_cases} case{'s' * (n_cases > 1)}"] if n_cases < MIN_CASES else []
    if short:
        return f"only {' and '.join(short)}; no verdict below {MIN_SEEDS} seeds and {MIN_CASES} cases"
    return "" if one.p is not None else "too many pairs of case and seed have no value"


def _objection(one: Difference, p_holm: float, said: str, table: Array, score: Score, test: CaseTest) -> str:
    if not np.nanmean(table, 1).any():
        return "no case differs"
    if p_holm > LEVEL:
        smallest = number(one.detectable, score.digits)
        hint = "" if one.detectable is None else f"; a true difference below {smallest} would often be missed"
        return f"{said}{hint}"
    floor = 2.0 ** (1 - one.n_cases)
    if one.p_cases is not None and one.p_cases > max(LEVEL, floor) * (1 + 1e-9):
        disagree = f"{CASE_TESTS[test][1]} p {probability(one.p_cases, equals=True)}"
        return f"{said}, but cases disagree: {disagree}"
    return ""


def _agreement(mean: float, table: Array) -> str:
    cases, seeds = (int((np.sign(np.nanmean(table, axis)) == np.sign(mean)).sum()) for axis in (1, 0))
    return f"{cases} of {table.shape[0]} cases and {seeds} of {table.shape[1]} seeds on this side"
