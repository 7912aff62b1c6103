"""Names a winner, or says why none is named. It holds the rule; the numbers are `statistics`'.

An arm is BETTER or WORSE in a score only if all of this holds:

1. it shares at least `MIN_SEEDS` seeds and `MIN_CASES` cases with the baseline;
2. p of the two-level bootstrap, after Holm's correction over the arms, is at most 0.05;
3. a test over cases, sign-flip or Wilcoxon, does not object: its p is at most 0.05, or as small as it can be with so
   few cases (five cases cannot go below 0.0625: then all five must point the same way).

By simulation (``tests/report/test_verdict.py``) at least 95 of 100 equal arms get no verdict, and so do 95 of 100
reports with five. A true gain of two standard errors of an arm's own mean, mostly how neurons differ, is found in 95 of
100 studies of 20 cases and 5 seeds, since both arms share their neurons; a comparison without pairs finds it in less
than half. In units of the standard error of the difference itself the level of 5 % sets the bound: no test finds a true
gain of two more often than every other time; this one finds 2.8 in about three studies of four where cases are many.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from distill3d.errors import InputError
from distill3d.report.comparison.statistics import (
    LEVEL,
    POOL_TEST,
    Array,
    CaseTest,
    case_test,
    detectable,
    draw_means,
    holm,
    interval,
    p_value,
    spread,
    tidy,
)
from distill3d.report.content import Verdict
from distill3d.report.numerals import probability

MIN_SEEDS = 3
MIN_CASES = 5
CASE_TESTS: Mapping[CaseTest, tuple[str, str]] = {  # as they are called in a sentence, and before a p
    "sign-flip": ("a sign-flip test", "sign-flip"),
    "wilcoxon": ("Wilcoxon's signed-rank test", "Wilcoxon"),
}
DEFAULT_TEST: CaseTest = "sign-flip"


def pick_test(asked: str) -> CaseTest:
    """Return the test over cases of that name.

    Raises:
        InputError: there is none; lists those there are.

    Example:
        >>> pick_test("wilcoxon")
        'wilcoxon'
    """
    for name in CASE_TESTS:
        if name == asked:
            return name
    raise InputError(f"--test: no test over cases is called {asked!r}; accepted: {', '.join(CASE_TESTS)}")


def in_words(test: CaseTest) -> str:
    """Say in one sentence how interval, p and verdict come about."""
    return (
        "Mean of arm minus baseline over shared cases and seeds; 95 % interval by a bootstrap over cases, then seeds, "
        f"expanded by the t distribution of each; two-sided p from the same bootstrap, which {CASE_TESTS[test][0]} "
        "over cases must not contradict; Holm's correction over arms; no verdict below 3 seeds and 5 cases or at a "
        "corrected p above 0.05."
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class Tested:
    """What a table of differences says before arms are weighed against each other; None where too little is known."""

    mean: float | None
    low: float | None
    high: float | None
    p: float | None
    p_cases: float | None
    error: float
    df: float
    case_means: Array
    seed_means: Array


@dataclass(frozen=True, kw_only=True, slots=True)
class Judged:
    """A table of differences with its verdict; fields as in `content.Difference`."""

    tested: Tested
    p_holm: float | None
    detectable: float | None
    verdict: Verdict
    why: str


def describe(table: Array, *, with_p: bool = True, test: CaseTest = DEFAULT_TEST) -> Tested:
    """Describe a table [C, S], NaN where a pair has no value, and test whether its mean is zero.

    Args:
        table: differences of one arm from the baseline, or scores of one arm.
        with_p: whether to test; scores have no zero to be tested against.
        test: over cases.
    """
    table = tidy(table)
    n_cases, n_seeds = table.shape
    if not table.size:
        none = np.empty(0)
        return _untested(None, none, none)
    case_means, seed_means = np.nanmean(table, 1), np.nanmean(table, 0)
    if min(n_cases, n_seeds) < 2 or np.isnan(table).sum() >= (n_cases - 1) * (n_seeds - 1):
        return _untested(float(case_means.mean()), case_means, seed_means)
    found = spread(table)
    careful = spread(table, pool=POOL_TEST) if with_p else found
    low, high = interval(draw_means(found))
    return Tested(
        mean=float(found.mean),
        low=float(low),
        high=float(high),
        p=float(p_value(draw_means(careful))) if with_p else None,
        p_cases=case_test(case_means, method=test) if with_p else None,
        error=float(careful.error),
        df=float(careful.df),
        case_means=case_means,
        seed_means=seed_means,
    )


def _untested(mean: float | None, case_means: Array, seed_means: Array) -> Tested:
    return Tested(
        mean=mean,
        low=None,
        high=None,
        p=None,
        p_cases=None,
        error=0.0,
        df=np.inf,
        case_means=case_means,
        seed_means=seed_means,
    )


def judge(tables: Mapping[str, Array], *, higher_is_better: bool, test: CaseTest = DEFAULT_TEST) -> dict[str, Judged]:
    """Judge all arms of a report in one score.

    Args:
        tables: by arm: differences from the baseline, [C, S], NaN where a pair has no value.
        higher_is_better: whether a positive difference is a gain.
        test: over cases, which may object to a verdict.

    Example:
        >>> gain = 0.1 + 0.01 * np.random.default_rng(0).normal(size=(6, 3))
        >>> found = judge({"arm": gain, "same": 0 * gain, "two seeds": gain[:, :2]}, higher_is_better=True)
        >>> [one.verdict for one in found.values()]
        ['BETTER', 'INCONCLUSIVE', 'INCONCLUSIVE']
        >>> found["two seeds"].why
        'only 2 seeds; no verdict below 3 seeds and 5 cases'
    """
    each = {arm: describe(table, test=test) for arm, table in tables.items()}
    with_p = {arm: one.p for arm, one in each.items() if one.p is not None}
    corrected = dict(zip(with_p, holm(list(with_p.values())), strict=True))
    return {
        arm: _judge(one, corrected.get(arm), n_arms=len(with_p), higher_is_better=higher_is_better, test=test)
        for arm, one in each.items()
    }


def _judge(one: Tested, p_holm: float | None, *, n_arms: int, higher_is_better: bool, test: CaseTest) -> Judged:
    found = detectable(one.error, one.df, n_arms=n_arms) if p_holm is not None and one.error > 0 else None
    objection = _too_few(one) or _objection(one, p_holm, n_arms, found, test)
    verdict: Verdict = "INCONCLUSIVE"
    if not objection and one.mean is not None:
        verdict = "BETTER" if (one.mean > 0) == higher_is_better else "WORSE"
    why = objection or f"{_p_text(p_holm, n_arms)}; {_agreement(one)}"
    return Judged(tested=one, p_holm=p_holm, detectable=found, verdict=verdict, why=why)


def _too_few(one: Tested) -> str:
    n_cases, n_seeds = len(one.case_means), len(one.seed_means)
    if not n_cases:
        return "no case and seed that both arms have a value for"
    short = [f"{n_seeds} seed{'s' * (n_seeds > 1)}"] if n_seeds < MIN_SEEDS else []
    short += [f"{n_cases} case{'s' * (n_cases > 1)}"] if n_cases < MIN_CASES else []
    if short:
        return f"only {' and '.join(short)}; no verdict below {MIN_SEEDS} seeds and {MIN_CASES} cases"
    return "" if one.p is not None else "too many pairs of case and seed have no value"


def _objection(one: Tested, p_holm: float | None, n_arms: int, found: float | None, test: CaseTest) -> str:
    if not np.any(one.case_means):
        return "no case differs"
    if p_holm is None or p_holm > LEVEL:
        hint = "" if found is None else f"; a true difference below {found:.2g} would often be missed"
        return f"{_p_text(p_holm, n_arms)}{hint}"
    floor = 2.0 ** (1 - len(one.case_means))
    if one.p_cases is not None and one.p_cases > max(LEVEL, floor) * (1 + 1e-9):
        disagree = f"{CASE_TESTS[test][1]} p {probability(one.p_cases, equals=True)}"
        return f"{_p_text(p_holm, n_arms)}, but cases disagree: {disagree}"
    return ""


def _p_text(p_holm: float | None, n_arms: int) -> str:
    corrected = f" (Holm over {n_arms} arms)" if n_arms > 1 else ""
    return f"p {probability(p_holm or 0.0, equals=True)}{corrected}"


def _agreement(one: Tested) -> str:
    sign = np.sign(one.mean or 0.0)
    cases, seeds = (int((np.sign(means) == sign).sum()) for means in (one.case_means, one.seed_means))
    return f"{cases} of {len(one.case_means)} cases and {seeds} of {len(one.seed_means)} seeds on this side"
