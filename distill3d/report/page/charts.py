"""Charts as plain Plotly dictionaries: what all share, and the differences of arms.

Colors are custom properties of the page, see `distill3d.report.page.palette`; the page's script replaces them.
"""

from __future__ import annotations

import html
import math
from collections.abc import Mapping, Sequence
from typing import Any

from distill3d.errors import printable
from distill3d.evaluation.scores import Score
from distill3d.report.content import Arm, Comparison, Difference
from distill3d.report.numerals import interval, number, short, unit_name
from distill3d.report.page.palette import look

Figure = dict[str, Any]
ROW = 34  # pixels an arm takes in a forest
FEW = 8  # names that a legend holds in three lines
INK, FAINT, GRID, SHADE = "var(--ink)", "var(--faint)", "var(--grid)", "var(--shade)"


def label(name: str) -> str:
    """Return a name for Plotly, which reads some markup: escaped, and cut if it is long."""
    return html.escape(short(printable(name)), quote=False)


def layout(*, x: str, y: str, height: int, **more: Any) -> Figure:  # noqa: ANN401 - Plotly's own
    """Return what all charts share."""
    axis = {
        "gridcolor": GRID,
        "zerolinecolor": FAINT,
        "linecolor": GRID,
        "tickcolor": GRID,
        "automargin": True,
        "title": {"standoff": 10, "font": {"size": 12.5}},
    }
    shared = {
        "height": height,
        "margin": {"l": 52, "r": 14, "t": 10, "b": 46},
        "paper_bgcolor": "rgba(0,0,0,0)",
        "plot_bgcolor": "rgba(0,0,0,0)",
        "font": {"family": "var(--font)", "size": 12.5, "color": INK},
        "uirevision": "kept",  # what a reader hid stays hidden in the other theme
        "hoverlabel": {
            "bgcolor": "var(--panel)",
            "bordercolor": FAINT,
            "font": {"color": INK, "family": "var(--font)"},
        },
        "legend": {"orientation": "h", "x": 0, "y": 1.02, "yanchor": "bottom", "font": {"size": 12}},
        "xaxis": axis | {"title": axis["title"] | {"text": x}},
        "yaxis": axis | {"title": axis["title"] | {"text": y}},
    }
    for key, value in more.items():
        shared[key] = {**shared[key], **value} if isinstance(shared.get(key), dict) else value
    return shared


def legend_height(n_arms: int) -> int:
    """Return the pixels a chart must be higher for a legend of many names; few fit anyway.

    >>> legend_height(8), legend_height(25)
    (0, 180)
    """
    return 0 if n_arms <= FEW else 20 * math.ceil(n_arms / 3)


def forest(comparison: Comparison, score: Score) -> Figure:
    """Draw every arm's difference with its interval over a bar as wide as what would often be missed."""
    rows = [row for row in comparison.differences if row.score == score.key and row.mean is not None]
    index = {arm.name: place for place, arm in enumerate(comparison.arms)}
    places = list(range(len(rows)))  # not names: two long ones may be cut to the same
    missed = [row.detectable or 0 for row in rows]
    ends = [abs(end) for row in rows for end in (row.mean, row.low, row.high, row.detectable) if end is not None]
    reach = 1.12 * max(ends, default=0.0) or 1.0
    shade = {
        "type": "bar",
        "orientation": "h",
        "name": "often missed at this sample size",
        "y": places,
        "x": [2 * size for size in missed],
        "base": [-size for size in missed],
        "width": 0.62,
        "marker": {"color": SHADE},
        "hoverinfo": "skip",
        "showlegend": any(missed),
    }
    return {
        "data": [shade, *(_difference(row, score, index[row.arm], place) for place, row in enumerate(rows))],
        "layout": layout(
            x=difference_title(score),
            y="",
            height=112 + ROW * max(len(rows), 2),
            showlegend=False,
            yaxis={
                "range": [len(rows) - 0.5, -0.5],
                "tickvals": places,
                "ticktext": [f"{label(row.arm)}  " for row in rows],
                "showgrid": False,
                "zeroline": False,
            },
            xaxis={"range": [-reach, reach], "zerolinewidth": 1.5, "nticks": 6},
            bargap=0,
        ),
    }


def _difference(row: Difference, score: Score, index: int, place: int) -> Figure:
    how, mean = look(index), row.mean or 0.0
    low, high = (mean if end is None else end for end in (row.low, row.high))
    hover = f"{number(mean, score.digits, signed=True)}<br>{interval(row.low, row.high, score.digits, signed=True)}"
    return {
        "type": "scatter",
        "mode": "markers",
        "name": label(row.arm),
        "meta": row.arm,
        "x": [mean],
        "y": [place],
        "error_x": {
            "type": "data",
            "symmetric": False,
            "array": [high - mean],
            "arrayminus": [mean - low],
            "color": how.color,
            "thickness": 2,
            "width": 5,
        },
        "marker": {"color": how.color, "symbol": how.symbol, "size": 11},
        "hovertemplate": f"{hover}<br>{row.verdict}<extra>{label(row.arm)}</extra>",
    }


def difference_title(score: Score) -> str:
    """Return the title of an axis of differences."""
    return f"difference ({unit_name(score)})" if score.unit else "difference"


def arm_keys(arms: Sequence[Arm]) -> list[Mapping[str, str]]:
    """Return name, color and short name of every arm, for the buttons that show and hide them."""
    return [{"name": arm.name, "short": short(arm.name), "color": look(place).color} for place, arm in enumerate(arms)]
