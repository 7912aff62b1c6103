"""Differences of arms: from the baseline, and of pairs that a question names, such as an arm and its own control."""

from __future__ import annotations

from collections.abc import Sequence

from distill3d.errors import InputError
from distill3d.evaluation.scores import Score
from distill3d.report.comparison.budget import check_budget
from distill3d.report.comparison.grouping import Group, arm_called
from distill3d.report.comparison.score_tables import axes, score_table
from distill3d.report.comparison.statistics import Array, CaseTest
from distill3d.report.comparison.verdict import judge
from distill3d.report.content import Contrast, Difference


def pairs_called(groups: Sequence[Group], wanted: Sequence[str]) -> list[tuple[Group, Group]]:
    """Return the arms of pairs such as ``frozen:scratch``: an arm, and what it is compared with.

    Raises:
        InputError: a pair is none, is there twice, is of one arm, or an arm is not there; lists the arms.
    """
    pairs: list[tuple[Group, Group]] = []
    for text in wanted:
        names, told = [name.strip() for name in text.split(":")], f"--contrast {text!r}"
        if len(names) != 2 or not all(names):
            raise InputError(f"{told} is no pair of arms; accepted: ARM:BASELINE")
        arm, baseline = (arm_called(groups, name, f"{told}: {name!r}") for name in names)
        if arm is baseline or (arm, baseline) in pairs:
            why = "is one arm" if arm is baseline else "is there twice"
            raise InputError(f"{told} {why}; accepted: two arms, once")
        pairs.append((arm, baseline))
    return pairs


def contrasts_of(pairs: Sequence[tuple[Group, Group]], scores: Sequence[Score], test: CaseTest) -> tuple[Contrast, ...]:
    """Judge pairs of arms in every score, Holm's correction over the pairs."""
    names = [f"{arm.name} minus {baseline.name}" for arm, baseline in pairs]
    judged = {
        score.key: judge(
            {name: shared_differences(*pair, score) for name, pair in zip(names, pairs, strict=True)},
            score,
            test=test,
            what="contrasts",
        )
        for score in scores
    }
    return tuple(
        Contrast(
            arm=arm.name,
            baseline=baseline.name,
            differences=tuple(judged[score.key][name] for score in scores),
            budget=check_budget(arm, baseline),
        )
        for name, (arm, baseline) in zip(names, pairs, strict=True)
    )


def differences_from(baseline: Group, others: Sequence[Group], score: Score, test: CaseTest) -> list[Difference]:
    """Judge all arms of a report against its baseline in one score."""
    tables = {group.name: shared_differences(group, baseline, score) for group in others}
    return list(judge(tables, score, test=test).values())


def shared_differences(arm: Group, baseline: Group, score: Score) -> Array:
    """Return arm minus baseline over the cases and seeds that both have, [C, S], NaN where a pair has no value."""
    (cases, seeds), (of_cases, of_seeds) = axes(arm.runs), axes(baseline.runs)
    cases = [case for case in cases if case in of_cases]
    seeds = [seed for seed in seeds if seed in of_seeds]
    of_arm, of_baseline = (score_table(each.runs, score.key, cases, seeds) for each in (arm, baseline))
    return of_arm - of_baseline
