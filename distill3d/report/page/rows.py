"""Rows of the page's tables: text, and the value they are sorted by. It derives gain per cost and changes of cases."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import final

from distill3d.evaluation.scores import Score
from distill3d.evaluation.tables import bends_in_vain, little_kept, nearly_linear
from distill3d.report.comparison.score_tables import axes, case_means, cases_that_gain
from distill3d.report.content import Arm, Comparison, Difference, Estimate, Verdict
from distill3d.report.numerals import (
    NONE,
    gain_per_hour,
    interval,
    number,
    quantity,
    reference_mean,
    short,
    taps_on_neurites,
)

MINUTE = 60.0
COSTS = (
    ("Size", "parameters"),
    ("Compute", "FLOP/patch"),
    ("Time", "s per step"),
    ("Memory", "GiB, peak"),
    ("Training", "min per run"),
    ("Neurons", "nonlinear part / linear"),
    ("Kept", "CKA with the teacher, after / before"),
    ("Tubes on neurites", "share of taps, bent / straight"),
    ("Tuning", "trials"),
    ("Gain per cost", "{} per h"),
)


@final
@dataclass(frozen=True, kw_only=True, slots=True)
class Cell:
    """A cell of costs or cases.

    Args:
        text: shown.
        sort: value to sort by; None sorts last.
        note: smaller, beside or below.
        tone: ``better``, ``worse`` or empty.
    """

    text: str
    sort: float | None = None
    note: str = ""
    tone: str = ""


@final
@dataclass(frozen=True, kw_only=True, slots=True)
class ScoreCell:
    """A cell of the headline table."""

    mean: str
    sort: float | None
    interval: str = ""
    missing: int = 0
    verdict: Verdict | None = None


@final
@dataclass(frozen=True, kw_only=True, slots=True)
class HeadRow:
    """An arm, or a reference that is not trained; `pairs` counts its cases, folds and seeds in words."""

    name: str
    place: int
    scores: tuple[ScoreCell, ...]
    costs: tuple[Cell, ...]
    pairs: str = ""
    reference: bool = False
    random_teacher: bool = False
    unequal: bool = False


@final
@dataclass(frozen=True, kw_only=True, slots=True)
class HeadTable:
    """The headline table.

    Args:
        costs: title and note of the columns after the scores.
        rows: arms, then references.
    """

    costs: tuple[tuple[str, str], ...]
    rows: tuple[HeadRow, ...]


@final
@dataclass(frozen=True, kw_only=True, slots=True)
class CaseRow:
    """A case over baseline, arms and references."""

    name: str
    cells: tuple[Cell, ...]


@final
@dataclass(frozen=True, kw_only=True, slots=True)
class CasePanel:
    """All cases in one score.

    Args:
        score: shown.
        caption: of the chart: how many cases gain in every arm.
        heads: columns after the case.
        rows: the cases, by name.
    """

    score: Score
    caption: str
    heads: tuple[str, ...]
    rows: tuple[CaseRow, ...]


def head_table(comparison: Comparison) -> HeadTable:
    """Lay out the headline table: arms, then references; a cost that no run says has no column."""
    rows = _head_rows(comparison)
    known = [place for place in range(len(COSTS)) if any(row.costs[place] != Cell(text=NONE) for row in rows)]
    kept = (dataclasses.replace(row, costs=tuple(row.costs[place] for place in known)) for row in rows)
    main = comparison.scores[0].label if comparison.scores else ""
    return HeadTable(costs=tuple((COSTS[place][0], COSTS[place][1].format(main)) for place in known), rows=tuple(kept))


def _head_rows(comparison: Comparison) -> list[HeadRow]:
    differences = {(row.arm, row.score): row for row in comparison.differences}
    unequal = {check.arm for check in comparison.budget if not check.equal}
    rows = [
        HeadRow(
            name=arm.name,
            place=place,
            scores=tuple(
                _score_cell(arm, score, differences.get((arm.name, score.key))) for score in comparison.scores
            ),
            costs=_costs(arm, comparison, differences.get((arm.name, comparison.scores[0].key))),
            pairs=_pairs(arm),
            random_teacher=arm.random_teacher,
            unequal=arm.name in unequal,
        )
        for place, arm in enumerate(comparison.arms)
    ]
    return rows + [_reference_row(name, cases, comparison) for name, cases in comparison.references.items()]


def _score_cell(arm: Arm, score: Score, row: Difference | None) -> ScoreCell:
    known: Estimate | None = arm.scores.get(score.key)
    if known is None:
        return ScoreCell(mean=NONE, sort=None)
    return ScoreCell(
        mean=number(known.mean, score.digits),
        sort=known.mean,
        interval=_spread(known, score),
        missing=known.n_missing,
        verdict=row.verdict if row else None,
    )


def _pairs(arm: Arm) -> str:
    cases, seeds = (len(axis) for axis in axes(arm.runs))
    folds = len({run.fold for run in arm.runs})
    of_folds = f" of {folds} folds" if folds > 1 else ""
    return f"{cases} case{'s' * (cases != 1)}{of_folds}, {seeds} seed{'s' * (seeds != 1)}"


def _spread(known: Estimate, score: Score) -> str:
    """Write the interval, or with too little for one the standard deviation of the means per seed."""
    text = interval(known.low, known.high, score.digits)
    return text or ("" if known.sd_seeds is None else f"± {number(known.sd_seeds, score.digits)}")


def _costs(arm: Arm, comparison: Comparison, row: Difference | None) -> tuple[Cell, ...]:
    cost = arm.cost
    trained = cost.trainable_parameters
    trains_more = trained is not None and cost.parameters is not None and trained > cost.parameters
    minutes = None if cost.fit_seconds is None else cost.fit_seconds / MINUTE
    return (
        Cell(
            text=quantity(cost.parameters),
            sort=cost.parameters,
            note=f"{quantity(trained)} in training"
            if trains_more and quantity(trained) != quantity(cost.parameters)
            else "",
        ),
        Cell(text=quantity(cost.flops_per_patch), sort=cost.flops_per_patch),
        Cell(text=number(cost.seconds_per_step, 3), sort=cost.seconds_per_step),
        Cell(text=number(cost.peak_memory_gib, 2), sort=cost.peak_memory_gib),
        Cell(text=number(minutes, 1), sort=minutes),
        Cell(
            text=number(arm.nonlinear_share, 3),
            sort=arm.nonlinear_share,
            note="nearly linear" if nearly_linear(arm.nonlinear_share) else "",
        ),
        Cell(text=number(arm.kept, 2), sort=arm.kept, note="mostly replaced" if little_kept(arm.kept) else ""),
        _tubes(arm),
        _tuning(arm, comparison.arms[0]),
        _gain(arm, comparison, row),
    )


def _tubes(arm: Arm) -> Cell:
    in_vain = bends_in_vain(dataclasses.asdict(arm.tubes))
    note = "bent in vain" if in_vain else ""
    return Cell(text=taps_on_neurites(arm.tubes), sort=arm.tubes.on_neurite, note=note)


def _tuning(arm: Arm, base: Arm) -> Cell:
    trials = arm.tuned_trials
    if not trials and not base.tuned_trials:
        return Cell(text=NONE)
    note = "" if trials == base.tuned_trials else f"baseline {base.tuned_trials}"
    return Cell(text=str(trials), sort=trials, note=note)


def _gain(arm: Arm, comparison: Comparison, row: Difference | None) -> Cell:
    """Divide what the arm gains in the main score by the hours that it trains."""
    base, seconds = comparison.arms[0], arm.cost.fit_seconds
    if row is None or row.mean is None or not seconds or base.cost.fit_seconds is None:
        return Cell(text=NONE)
    if row.verdict == "INCONCLUSIVE":
        return Cell(text=NONE, note="no gain shown")
    per_hour = gain_per_hour(row.mean, comparison.scores[0], seconds)
    more = number((seconds - base.cost.fit_seconds) / MINUTE, 1, signed=True)
    return Cell(text=number(per_hour, 2, signed=True), sort=per_hour, note=f"{more} min a run")


def _reference_row(name: str, cases: Mapping[str, Mapping[str, float | None]], comparison: Comparison) -> HeadRow:
    def cell(score: Score) -> ScoreCell:
        mean = reference_mean(cases, score)
        missing = sum(row.get(score.key) is None for row in cases.values())
        return ScoreCell(mean=number(mean, score.digits), sort=mean, missing=missing)

    costs = tuple(Cell(text=NONE) for _ in COSTS)
    return HeadRow(
        name=name, place=-1, scores=tuple(cell(score) for score in comparison.scores), costs=costs, reference=True
    )


def case_panels(comparison: Comparison) -> list[CasePanel]:
    """Lay out every case's means over seeds, and its change from the baseline."""
    return [_case_panel(comparison, score) for score in comparison.scores]


def _case_panel(comparison: Comparison, score: Score) -> CasePanel:
    baseline, *others = comparison.arms
    means = {arm.name: case_means(arm, score.key) for arm in comparison.arms}
    of_baseline = means[baseline.name]
    names = sorted({case for cases in means.values() for case in cases})
    rows = []
    for case in names:
        base = of_baseline.get(case)
        cells = [Cell(text=number(base, score.digits), sort=base)]
        cells += [_change(means[arm.name].get(case), base, score) for arm in others]
        for of_case in comparison.references.values():
            value = of_case.get(case, {}).get(score.key)
            cells.append(Cell(text=number(value, score.digits), sort=value))
        rows.append(CaseRow(name=case, cells=tuple(cells)))
    gains = [(arm, *cases_that_gain(arm, baseline, score)) for arm in others]
    summary = "; ".join(f"{short(arm.name)} is better in {better} of {both} cases" for arm, both, better in gains)
    return CasePanel(
        score=score,
        caption=f"{summary}." if summary else "",
        heads=tuple(short(name) for name in (*means, *comparison.references)),
        rows=tuple(rows),
    )


def _change(value: float | None, base: float | None, score: Score) -> Cell:
    if value is None or base is None:
        return Cell(text=number(value, score.digits), sort=value)
    change = value - base
    note = number(change, score.digits, signed=True)
    same = note.lstrip("0.,") == ""
    good = (change > 0) == score.higher_is_better
    return Cell(
        text=number(value, score.digits), sort=value, note=note, tone="" if same else "better" if good else "worse"
    )
