"""Scores against the number of labelled volumes, where a report has arms with several."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, final

from distill3d.evaluation.scores import Score
from distill3d.report.content import Arm, Comparison
from distill3d.report.numerals import titled
from distill3d.report.page.charts import Figure, label, layout
from distill3d.report.page.palette import look


@final
@dataclass(frozen=True, slots=True)
class LowDataLine:
    """Arms that differ in their number of labelled volumes only.

    Args:
        name: their experiment, with the settings they share where it has several lines.
        index: place of the first of them, for its color.
        arms: by number of labelled volumes.
    """

    name: str
    index: int
    arms: tuple[Arm, ...]


def low_data_lines(comparison: Comparison) -> tuple[LowDataLine, ...]:
    """Group arms that differ in their labelled volumes only; empty where all have the same number of them."""
    grouped: dict[str, list[tuple[int, Arm]]] = {}
    for place, arm in enumerate(comparison.arms):
        if arm.labelled is not None:
            grouped.setdefault(_shared_name(arm), []).append((place, arm))
    if len({arm.labelled for members in grouped.values() for _, arm in members}) < 2:
        return ()
    lines = Counter(members[0][1].experiment for members in grouped.values())
    return tuple(
        LowDataLine(
            name if lines[members[0][1].experiment] > 1 else members[0][1].experiment,
            members[0][0],
            tuple(sorted((arm for _, arm in members), key=lambda arm: arm.labelled or 0)),
        )
        for name, members in grouped.items()
    )


def _shared_name(arm: Arm) -> str:
    kept = {key: value for key, value in arm.settings.items() if not key.startswith("data.")}
    settings = ", ".join(f"{key}={value}" for key, value in kept.items())
    return f"{arm.experiment} [{settings}]" if settings else arm.experiment


def low_data(lines: Sequence[LowDataLine], score: Score) -> Figure:
    """Draw a score against the number of labelled volumes, with the interval of its mean."""
    traces = [_low_data_trace(line, score) for line in lines]
    ticks: dict[str, Any] = {
        "tickvals": sorted({arm.labelled for line in lines for arm in line.arms if arm.labelled is not None})
    }
    return {
        "data": traces,
        "layout": layout(x="labelled training volumes", y=titled(score), height=380, xaxis=ticks),
    }


def _low_data_trace(line: LowDataLine, score: Score) -> Figure:
    how = look(line.index)
    points = [(arm.labelled, arm.scores[score.key]) for arm in line.arms if score.key in arm.scores]
    known = [(x, e.mean, e.low, e.high) for x, e in points if e.mean is not None]
    return {
        "type": "scatter",
        "mode": "lines+markers",
        "name": label(line.name),
        "meta": line.name,
        "x": [x for x, *_ in known],
        "y": [mean for _, mean, *_ in known],
        "error_y": {
            "type": "data",
            "symmetric": False,
            "array": [0 if high is None else high - mean for _, mean, _, high in known],
            "arrayminus": [0 if low is None else mean - low for _, mean, low, _ in known],
            "color": how.color,
            "thickness": 1.3,
        },
        "line": {"color": how.color, "dash": how.dash, "width": 2},
        "marker": {"symbol": how.symbol, "size": 9},
        "hovertemplate": f"%{{y:.{score.digits}f}}<extra>{label(line.name)}, %{{x}} volumes</extra>",
    }
