"""Numbers as text, the same in Markdown and terminal. It rounds; it computes nothing."""

from __future__ import annotations

from distill3d.report.content import Comparison, Cost, Difference, Estimate, Score

ABSENT = "-"
COSTS = ("parameters", "FLOPs/patch", "s/step", "memory", "training")


def heading(score: Score) -> str:
    """Label and unit, with an arrow where the better values are."""
    unit = f" ({score.unit})" if score.unit else ""
    return f"{score.label}{unit} {'↑' if score.higher_is_better else '↓'}"


def estimate(found: Estimate, score: Score) -> str:
    """Mean and interval; with too little for one, the standard deviation over seeds."""
    if found.mean is None:
        return ABSENT
    mean = f"{found.mean:.{score.digits}f}"
    if found.low is not None and found.high is not None:
        return f"{mean} [{found.low:.{score.digits}f}, {found.high:.{score.digits}f}]"
    return mean if found.sd_seeds is None else f"{mean} ± {found.sd_seeds:.{score.digits}f}"


def difference(found: Difference, score: Score) -> str:
    """Signed mean difference and its interval."""
    if found.mean is None:
        return ABSENT
    mean = f"{found.mean:+.{score.digits}f}"
    if found.low is None or found.high is None:
        return mean
    return f"{mean} [{found.low:+.{score.digits}f}, {found.high:+.{score.digits}f}]"


def p_text(p: float | None) -> str:
    """A p value with two digits.

    Example:
        >>> p_text(0.0002), p_text(0.034), p_text(None)
        ('<0.001', '0.034', '-')
    """
    if p is None:
        return ABSENT
    return "<0.001" if p < 0.001 else f"{p:.2g}"


def costs(cost: Cost) -> tuple[str, ...]:
    """What a run costs, in the order of `COSTS`."""
    return (
        _large(cost.parameters),
        _large(cost.flops_per_patch),
        ABSENT if cost.seconds_per_step is None else f"{cost.seconds_per_step:.3g} s",
        ABSENT if cost.peak_memory_gib is None else f"{cost.peak_memory_gib:.2f} GiB",
        ABSENT if cost.fit_seconds is None else f"{cost.fit_seconds:.0f} s",
    )


def _large(value: float | None) -> str:
    if value is None:
        return ABSENT
    for size, suffix in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= size:
            return f"{value / size:.3g} {suffix}"
    return f"{value:.0f}"


def reference_means(comparison: Comparison, name: str) -> list[str]:
    """Mean of a classical method over its cases, by score."""
    rows = comparison.references[name].values()
    texts = []
    for score in comparison.scores:
        values = [value for row in rows if (value := row[score.key]) is not None]
        texts.append(f"{sum(values) / len(values):.{score.digits}f}" if values else ABSENT)
    return texts
