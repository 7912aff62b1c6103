"""What a report says, as plain data. ``report.json`` is this; page, Markdown and terminal only lay it out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from distill3d.evaluation.scores import Score
from distill3d.report.costs import Cost, Tubes

Verdict = Literal["BETTER", "WORSE", "INCONCLUSIVE"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Estimate:
    """A mean over cases and seeds.

    Args:
        mean: None where no case has a value.
        low: end of the 95 % interval; None where there is too little to say.
        high: the other end.
        sd_seeds: standard deviation of the per-seed means; None for one seed.
        n_cases: cases with a value in at least one seed.
        n_seeds: seeds.
        n_missing: pairs of case and seed without a value (missed cases have no distance, for one).
    """

    mean: float | None
    low: float | None
    high: float | None
    sd_seeds: float | None
    n_cases: int
    n_seeds: int
    n_missing: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Difference:
    """An arm minus the baseline in one score, over the cases and seeds both have.

    Args:
        arm: its name.
        score: a score's key.
        mean: arm minus baseline, in the score's unit; None where they share no pair.
        low: end of the 95 % interval of the mean; None where there is too little to say.
        high: the other end.
        p: of the paired test, two-sided, before correction.
        p_holm: after Holm's correction over the arms of this score.
        detectable: smallest true difference found with 80 % power at this sample size; None where unknown.
        n_cases: shared.
        n_seeds: shared.
        verdict: about the arm, whichever direction is better.
        why: one line: what decided, or why nothing is named.
        p_cases: of the test over cases, which must not contradict; None where there are too few.
    """

    arm: str
    score: str
    mean: float | None
    low: float | None
    high: float | None
    p: float | None
    p_holm: float | None = None
    detectable: float | None = None
    n_cases: int
    n_seeds: int
    verdict: Verdict = "INCONCLUSIVE"
    why: str = ""
    p_cases: float | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class RunEntry:
    """One run of an arm.

    Args:
        folder: as given or found, POSIX style.
        seed: of the run.
        fold: what it is tested on, such as ``fold 2 of 4``; empty where all runs of the arm are on the same.
        cases: scores by case, then by key; None where a score has no value.
        commit: of distill3d; None where unknown.
        command: to reproduce it, one shell line.
        packages: version by name.
        machine: a line.
    """

    folder: str
    seed: int
    fold: str = ""
    cases: Mapping[str, Mapping[str, float | None]]
    commit: str | None
    command: str
    packages: Mapping[str, str]
    machine: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Arm:
    """Runs that differ in their seed and fold only; a case is tested in one fold, or in each of several.

    Args:
        name: unique in the report: the experiment's, with the settings that tell two arms of one experiment apart.
        experiment: its name.
        question: the experiment's.
        settings: dotted keys in which the arms of this report differ, with this arm's values.
        labelled: number of labelled training volumes; None where it cannot be told.
        runs: by seed, and as found within one.
        scores: estimate by score key.
        cost: of a run.
        kept: share of its likeness to the teacher that a run has left, the mean over seeds; None where nothing was
            transferred, or no run says it.
        nonlinear_share: of the neurons, relative to their linear part, likewise.
        tubes: how closely they follow neurites.
        tuned_trials: in which its settings were chosen on validation cases; 0 where nothing says so.
        tuned: which settings, by what and where, in words; empty likewise.
        teacher: a line such as ``tf_efficientnet_lite0, package ..., sha256 ...``; empty without a teacher.
        random_teacher: whether the teacher's weights are random.
    """

    name: str
    experiment: str
    question: str
    settings: Mapping[str, Any]
    labelled: int | None
    runs: tuple[RunEntry, ...]
    scores: Mapping[str, Estimate]
    cost: Cost
    kept: float | None = None
    nonlinear_share: float | None = None
    tubes: Tubes = Tubes()  # noqa: RUF009 - frozen
    tuned_trials: int = 0
    tuned: str = ""
    teacher: str
    random_teacher: bool


@dataclass(frozen=True, kw_only=True, slots=True)
class Setting:
    """A key in which an arm differs from the baseline.

    Args:
        key: dotted.
        arm: the arm's value, as text.
        baseline: the baseline's value, as text.
        fair: whether it may differ: it is under ``strategy``, ``teacher``, ``student`` or ``neurons``, says how
            transferred weights learn, or was chosen for both by tunings of as many trials.
    """

    key: str
    arm: str
    baseline: str
    fair: bool


@dataclass(frozen=True, kw_only=True, slots=True)
class BudgetCheck:
    """Whether an arm and the baseline had the same data, steps, batch, augmentation, tuning and seeds.

    Args:
        arm: its name.
        settings: that differ.
        remarks: what else is unequal: seeds, cases, folds, tuning, code, packages; one line each.
        equal: whether no unfair setting and no unequal seeds, cases, folds or tuning were found.
    """

    arm: str
    settings: tuple[Setting, ...]
    remarks: tuple[str, ...]
    equal: bool


@dataclass(frozen=True, kw_only=True, slots=True)
class Contrast:
    """An arm minus another than the baseline, asked for by name, such as its control or its twin from scratch.

    Args:
        arm: its name.
        baseline: name of what it is compared with.
        differences: an entry per score; Holm's correction is over the contrasts of this score.
        budget: whether both had the same one.
    """

    arm: str
    baseline: str
    differences: tuple[Difference, ...]
    budget: BudgetCheck


@dataclass(frozen=True, kw_only=True, slots=True)
class Profile:
    """What share of an arm's pairs of case and seed is at least as good as a score: a curve of steps.

    Args:
        arm: its name.
        score: a score's key.
        taus: scores at which the share changes, ascending; where there are many, some of them.
        shares: of the pairs with a value, at each of them.
        lows: ends of the pointwise 95 % band; empty below two cases and two seeds.
        highs: the other ends.
        n_pairs: with a value.
    """

    arm: str
    score: str
    taus: tuple[float, ...]
    shares: tuple[float, ...]
    lows: tuple[float, ...]
    highs: tuple[float, ...]
    n_pairs: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Ranking:
    """How arms rank in a score over the cases and seeds that all of them share.

    Args:
        score: a score's key.
        ranks: average by arm, best first, 1 is best; empty where too little is shared.
        groups: arms that are not told apart, best first, each of two or more.
        statistic: Friedman's chi-square.
        p: of it; None where too little is shared.
        critical_difference: of two average ranks.
        n_cases: shared by all arms.
        n_seeds: likewise.
        why: why there are no ranks; empty where there are.
    """

    score: str
    ranks: Mapping[str, float] = field(default_factory=dict)
    groups: tuple[tuple[str, ...], ...] = ()
    statistic: float | None = None
    p: float | None = None
    critical_difference: float | None = None
    n_cases: int
    n_seeds: int
    why: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class Comparison:
    """Everything a report says in numbers.

    Args:
        title: of the report.
        created: UTC, ISO 8601.
        baseline: name of the arm the others are compared with.
        scores: columns, the main one first.
        arms: the baseline first, then the best mean of the main score first.
        references: classical methods such as ``otsu``: scores by case, then by key; they take part in no test.
        differences: an entry per arm other than the baseline and score.
        budget: an entry per arm other than the baseline.
        contrasts: further pairs of arms that were asked for.
        remarks: what a reader must know before believing: runs left out, few seeds, random teachers.
        damaged: of the remarks, those about damaged runs.
        test: name of the paired test, of the interval and of the correction, in one sentence.
        profiles: an entry per arm and score.
        rankings: an entry per score.
    """

    title: str
    created: str
    baseline: str
    scores: tuple[Score, ...]
    arms: tuple[Arm, ...]
    references: Mapping[str, Mapping[str, Mapping[str, float | None]]] = field(default_factory=dict)
    differences: tuple[Difference, ...] = ()
    budget: tuple[BudgetCheck, ...] = ()
    contrasts: tuple[Contrast, ...] = ()
    remarks: tuple[str, ...] = ()
    damaged: tuple[str, ...] = ()
    test: str = ""
    profiles: tuple[Profile, ...] = ()
    rankings: tuple[Ranking, ...] = ()
