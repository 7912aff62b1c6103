"""Whole cells of tables as text, the same in Markdown and terminal. It rounds by `numerals`; it computes nothing."""

from __future__ import annotations

from distill3d.evaluation.scores import Score
from distill3d.report.content import Comparison, Cost, Difference, Estimate
from distill3d.report.numerals import number, quantity, titled

COSTS = ("parameters", "FLOPs/patch", "s/step", "memory", "training")


def heading(score: Score) -> str:
    """Label and unit, with an arrow where the better values are."""
    return f"{titled(score)} {'↑' if score.higher_is_better else '↓'}"


def estimate(found: Estimate, score: Score) -> str:
    """Mean and interval; with too little for one, the standard deviation over seeds."""
    spread = found.sd_seeds if found.mean is not None and found.low is None else None
    beside = "" if spread is None else f" ± {number(spread, score.digits)}"
    return _with_interval(found, score, signed=False) + beside


def difference(found: Difference, score: Score) -> str:
    """Signed mean difference and its interval."""
    return _with_interval(found, score, signed=True)


def _with_interval(found: Estimate | Difference, score: Score, *, signed: bool) -> str:
    mean, low, high = (number(value, score.digits, signed=signed) for value in (found.mean, found.low, found.high))
    return mean if found.low is None or found.high is None else f"{mean} [{low}, {high}]"


def costs(cost: Cost) -> tuple[str, ...]:
    """What a run costs, in the order of `COSTS`."""
    return (
        quantity(cost.parameters),
        quantity(cost.flops_per_patch),
        quantity(cost.seconds_per_step, "s"),
        quantity(cost.peak_memory_gib, "GiB"),
        quantity(cost.fit_seconds, "s"),
    )


def reference_mean(comparison: Comparison, name: str, score: Score) -> float | None:
    """Mean of a classical method over the cases in which it has the score."""
    known = [value for row in comparison.references[name].values() if (value := row.get(score.key)) is not None]
    return sum(known) / len(known) if known else None


def reference_means(comparison: Comparison, name: str) -> list[str]:
    """Mean of a classical method, by score."""
    return [number(reference_mean(comparison, name, score), score.digits) for score in comparison.scores]
