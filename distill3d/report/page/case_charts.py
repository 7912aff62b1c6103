"""Charts of cases as plain Plotly dictionaries: which neurons gain."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from distill3d.evaluation.scores import Score
from distill3d.report.comparison.score_tables import case_means
from distill3d.report.content import Arm, Comparison
from distill3d.report.numerals import number, titled
from distill3d.report.page.charts import FAINT, Figure, difference_title, label, layout, legend_height
from distill3d.report.page.palette import look


def case_scatter(comparison: Comparison, score: Score) -> Figure:
    """Draw every case as a point, baseline across and arm up: above the diagonal the arm has the larger value."""
    baseline, *others = comparison.arms
    of_baseline = case_means(baseline, score.key)
    traces, seen = [], []
    for place, arm in enumerate(others, 1):
        of_arm = case_means(arm, score.key)
        both = [
            (case, of_baseline[case], of_arm[case])
            for case in of_baseline
            if None not in (of_baseline[case], of_arm.get(case))
        ]
        seen += [value for _, x, y in both for value in (x, y) if value is not None]
        traces.append(_points(arm, place, both, score))
    low, high = (min(seen), max(seen)) if seen else (0.0, 1.0)
    pad = 0.06 * (high - low) or 0.05 * abs(high) or 0.05
    ends = [low - pad, high + pad]
    diagonal = {
        "type": "scatter",
        "mode": "lines",
        "x": ends,
        "y": ends,
        "name": "no difference",
        "line": {"color": FAINT, "width": 1, "dash": "dot"},
        "hoverinfo": "skip",
    }
    axes = {"range": ends, "zeroline": False}
    return {
        "data": [diagonal, *traces],
        "layout": layout(
            x=f"{label(baseline.name)}: {titled(score)}",
            y=f"arm: {titled(score)}",
            height=440 + legend_height(len(traces)),
            xaxis=axes,
            yaxis=axes,
        ),
    }


def _points(arm: Arm, place: int, both: Sequence[tuple[str, Any, Any]], score: Score) -> Figure:
    texts = [
        f"{label(case)}<br>{number(x, score.digits)} to {number(y, score.digits)}"
        f" ({number(y - x, score.digits, signed=True)})"
        for case, x, y in both
    ]
    return _markers(arm, place, [x for _, x, _ in both], [y for _, _, y in both], texts)


def _markers(arm: Arm, place: int, x: Sequence[float], y: Sequence[float], texts: Sequence[str]) -> Figure:
    """Draw points of an arm that say a text each."""
    how = look(place)
    return {
        "type": "scatter",
        "mode": "markers",
        "name": label(arm.name),
        "meta": arm.name,
        "x": list(x),
        "y": list(y),
        "text": list(texts),
        "hovertemplate": f"%{{text}}<extra>{label(arm.name)}</extra>",
        "marker": {"color": how.color, "symbol": how.symbol, "size": 9.5, "opacity": 0.85},
    }


def case_changes(comparison: Comparison, score: Score) -> Figure:
    """Draw how every case changes from the baseline in every arm, the case that gains most on average at the top."""
    baseline, *others = comparison.arms
    of_baseline = case_means(baseline, score.key)
    changes: dict[str, dict[int, float]] = {}
    for place, arm in enumerate(others, 1):
        for case, value in case_means(arm, score.key).items():
            base = of_baseline.get(case)
            if value is not None and base is not None:
                changes.setdefault(case, {})[place] = value - base
    sign = -1 if score.higher_is_better else 1
    order = sorted(changes, key=lambda case: sign * sum(changes[case].values()) / len(changes[case]))
    traces = [_changes_of(arm, place, changes, order, score) for place, arm in enumerate(others, 1)]
    return {
        "data": traces,
        "layout": layout(
            x=difference_title(score),
            y="",
            height=max(440, 60 + 20 * len(order)),
            showlegend=False,
            yaxis={
                "range": [len(order) - 0.5, -0.5],
                "tickvals": list(range(len(order))),
                "ticktext": [f"{label(case)}  " for case in order],
                "zeroline": False,
            },
            xaxis={"zeroline": True, "zerolinewidth": 1.5, "nticks": 6},
        ),
    }


def _changes_of(
    arm: Arm, place: int, changes: Mapping[str, Mapping[int, float]], order: Sequence[str], score: Score
) -> Figure:
    points = [(changes[case][place], row, case) for row, case in enumerate(order) if place in changes[case]]
    texts = [f"{label(case)}: {number(change, score.digits, signed=True)}" for change, _, case in points]
    return _markers(arm, place, [change for change, _, _ in points], [row for _, row, _ in points], texts)
