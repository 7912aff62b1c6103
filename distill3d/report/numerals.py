"""Numbers, units and names as text. It rounds, and computes what several texts tell."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import asdict

from markupsafe import Markup

from distill3d.errors import printable
from distill3d.evaluation.scores import Score
from distill3d.evaluation.tables import can_bend
from distill3d.report.content import Arm, Comparison, Difference, Estimate
from distill3d.report.costs import Tubes

NONE = "\N{EN DASH}"  # where there is no value
MINUS = "\N{MINUS SIGN}"
_PARTS = re.compile(r"[^_.=/\[,-]*[_.=/\[,-]+|[^_.=/\[,-]+")
_PREFIXES = (("T", 1e12), ("G", 1e9), ("M", 1e6), ("k", 1e3))
_UNITS = {"um": "\N{MICRO SIGN}m", "vox": "voxels"}


def number(value: float | None, digits: int, *, signed: bool = False) -> str:
    """Write a number with a true minus sign; a dash where there is none.

    >>> number(0.12345, 3), number(-0.5, 1, signed=True), number(0.5, 1, signed=True), number(None, 3)
    ('0.123', '−0.5', '+0.5', '–')
    """
    if value is None:
        return NONE
    text = f"{value:+,.{digits}f}" if signed else f"{value:,.{digits}f}"
    if not text.strip("+-0.,"):  # what rounds to zero has no sign
        text = text.lstrip("+-")
    return text.replace("-", MINUS)


def interval(low: float | None, high: float | None, digits: int, *, signed: bool = False) -> str:
    """Write an interval; empty where there is none.

    >>> interval(-0.1, 0.2, 2), interval(None, None, 2)
    ('−0.10 to 0.20', '')
    """
    if low is None or high is None:
        return ""
    return f"{number(low, digits, signed=signed)} to {number(high, digits, signed=signed)}"


def probability(p: float | None, *, equals: bool = False) -> str:
    """Write a p-value.

    Args:
        p: in [0, 1].
        equals: with an equals sign where it is not a bound, as in a sentence.

    >>> probability(0.00004), probability(0.0423), probability(0.0423, equals=True), probability(None)
    ('< 0.001', '0.042', '= 0.042', '–')
    """
    if p is None:
        return NONE
    return "< 0.001" if p < 0.001 else f"{'= ' * equals}{p:.3f}"


def quantity(value: float | None, unit: str = "") -> str:
    """Write a count or a cost with three significant digits and an SI prefix.

    >>> quantity(1_007_665), quantity(3.2e9, "FLOP"), quantity(123e6), quantity(999.6, "s"), quantity(None, "s")
    ('1.01 M', '3.20 GFLOP', '123 M', '1.00 ks', '–')
    """
    if value is None:
        return NONE
    value = float(f"{value:.3g}")  # so that 999.6 is 1.00 k
    prefix, size = next((pair for pair in _PREFIXES if abs(value) >= pair[1]), ("", 1.0))
    digits = f"{value / size:#.3g}".removesuffix(".")
    return f"{digits} {prefix}{unit}".strip()


def unit_name(score: Score) -> str:
    """Return a score's unit for people; empty where it has none."""
    return _UNITS.get(score.unit, score.unit)


def titled(score: Score) -> str:
    """Return a score's label with its unit.

    >>> titled(Score(key="hd95_um", label="HD95", unit="um", higher_is_better=False, digits=1))
    'HD95 (µm)'
    """
    return f"{score.label} ({unit_name(score)})" if score.unit else score.label


def short(name: str, length: int = 34) -> str:
    """Cut a long name in the middle, so that what tells it apart stays.

    >>> short("op_kd_inflate [strategy.parts.match.weight=0.5]", 24)
    'op_kd_inflat….weight=0.5]'
    """
    half = length // 2
    return name if len(name) <= length + 1 else f"{name[:half]}\N{HORIZONTAL ELLIPSIS}{name[half - length :]}"


def breakable(name: str) -> Markup:
    """Return a name, escaped, that may be broken behind what separates its parts.

    >>> str(breakable("op_kd.x<"))
    'op_<wbr>kd.<wbr>x&lt;'
    """
    return Markup("<wbr>").join(part for part in _PARTS.findall(printable(name)))


def trainings(arm: Arm) -> str:
    """Write how many seeds an arm has, and folds where there are several."""
    seeds, folds = len({run.seed for run in arm.runs}), len({run.fold for run in arm.runs})
    return f"{seeds} x {folds} folds" if folds > 1 else str(seeds)


COSTS = (
    "parameters",
    "FLOPs/patch",
    "s/step",
    "memory",
    "training",
    "tuning trials",
    "nonlinear / linear",
    "kept",
    "taps on neurites, bent / straight",
)


def heading(score: Score) -> str:
    """Label and unit, with an arrow where the better values are."""
    return f"{titled(score)} {'↑' if score.higher_is_better else '↓'}"


def estimate(value: Estimate, score: Score) -> str:
    """Mean and interval, or with too little for one the standard deviation over seeds, and how many pairs lack it."""
    spread = value.sd_seeds if value.mean is not None and value.low is None else None
    beside = "" if spread is None else f" ± {number(spread, score.digits)}"
    gaps = (
        f" ({value.n_missing} gap{'s' * (value.n_missing != 1)})" if value.mean is not None and value.n_missing else ""
    )
    return _with_interval(value, score, signed=False) + beside + gaps


def difference(value: Difference, score: Score) -> str:
    """Signed mean difference and its interval."""
    return _with_interval(value, score, signed=True)


def _with_interval(estimated: Estimate | Difference, score: Score, *, signed: bool) -> str:
    mean, low, high = (
        number(value, score.digits, signed=signed) for value in (estimated.mean, estimated.low, estimated.high)
    )
    return mean if estimated.low is None or estimated.high is None else f"{mean} [{low}, {high}]"


def costs(arm: Arm) -> tuple[str, ...]:
    """What a run costs, in how many trials it was tuned, its neurons, what it keeps and sees along its tubes."""
    cost = arm.cost
    return (
        quantity(cost.parameters),
        quantity(cost.flops_per_patch),
        quantity(cost.seconds_per_step, "s"),
        quantity(cost.peak_memory_gib, "GiB"),
        quantity(cost.fit_seconds, "s"),
        str(arm.tuned_trials) if arm.tuned_trials else NONE,
        number(arm.nonlinear_share, 3),
        number(arm.kept, 2),
        taps_on_neurites(arm.tubes),
    )


def taps_on_neurites(tubes: Tubes) -> str:
    """Write the shares of bent and of straight tubes; only one where tubes cannot bend.

    >>> taps_on_neurites(Tubes(on_neurite=0.081, on_neurite_straight=0.017, saturated=0.02))
    '8.1 / 1.7 %'
    """
    if tubes.on_neurite is None or tubes.on_neurite_straight is None:
        return NONE
    bent, straight = (number(100 * share, 1) for share in (tubes.on_neurite, tubes.on_neurite_straight))
    return f"{bent} / {straight} %" if can_bend(asdict(tubes)) else f"{straight} %"


def gain_per_hour(mean: float | None, score: Score, fit_seconds: float | None) -> float | None:
    """Divide the mean difference of an arm by the hours that it trains; more is better, whatever the score.

    >>> hd95 = Score(key="hd95_um", label="HD95", unit="um", higher_is_better=False, digits=1)
    >>> gain_per_hour(-3.0, hd95, 1800.0), gain_per_hour(-3.0, hd95, None)
    (6.0, None)
    """
    if mean is None or not fit_seconds:
        return None
    return (mean if score.higher_is_better else -mean) / (fit_seconds / 3600)


def reference_mean(cases: Mapping[str, Mapping[str, float | None]], score: Score) -> float | None:
    """Mean of a classical method over the cases in which it has the score."""
    known = [value for row in cases.values() if (value := row.get(score.key)) is not None]
    return sum(known) / len(known) if known else None


def reference_means(comparison: Comparison, name: str) -> list[str]:
    """Mean of a classical method, by score."""
    return [number(reference_mean(comparison.references[name], score), score.digits) for score in comparison.scores]
