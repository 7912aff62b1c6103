"""Learning curves of runs: read once, those of an arm joined to a band, drawn."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import final

import numpy as np

from distill3d.report.numerals import number
from distill3d.report.page.charts import Figure, label, layout, legend_height
from distill3d.report.page.palette import look
from distill3d.storage.curves import Curve, read_curves

POINTS = 60  # of a curve, at most: a page holds many
MOST = 8  # terms that are drawn
FIRST = ("val/dice", "train/loss")


@final
@dataclass(frozen=True, slots=True)
class Band:
    """A term over the runs of an arm.

    Args:
        steps: ascending, [P].
        mean: of the runs that have a value there, [P].
        low: the least of them, [P].
        high: the largest, [P].
        n_runs: that have the term.
    """

    steps: tuple[int, ...]
    mean: tuple[float, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]
    n_runs: int


@final
@dataclass(frozen=True, slots=True)
class TermChart:
    """A term's chart, and what it ends with as text: arm, mean of its runs, their range."""

    term: str
    figure: Figure
    last: tuple[tuple[str, str, str], ...]


def band(curves: Sequence[Curve], points: int = POINTS) -> Band:
    """Join the curves of runs: their mean, least and largest at every step, or in as many bins as ``points``.

    In a bin, a run counts with its mean there. A step that only some runs have counts those.

    >>> band([[(0, 1.0), (5, 3.0)], [(0, 2.0)]])
    Band(steps=(0, 5), mean=(1.5, 3.0), low=(1.0, 3.0), high=(2.0, 3.0), n_runs=2)
    """
    curves = [curve for curve in curves if curve]
    steps = sorted({step for curve in curves for step, _ in curve})
    if not steps:
        return Band((), (), (), (), 0)
    bins = [part.tolist() for part in np.array_split(steps, min(points, len(steps)))]
    shown = [part[len(part) // 2] for part in bins]
    place = {step: at for at, part in enumerate(bins) for step in part}
    table = np.full((len(curves), len(shown)), np.nan)
    for row, curve in zip(table, curves, strict=True):
        at = np.array([place[step] for step, _ in curve])
        sums = np.bincount(at, [value for _, value in curve], len(shown))
        counts = np.bincount(at, minlength=len(shown))
        np.divide(sums, counts, out=row, where=counts > 0)
    mean, low, high = (tuple(np.round(over(table, axis=0), 6).tolist()) for over in (np.nanmean, np.nanmin, np.nanmax))
    return Band(tuple(shown), mean, low, high, len(curves))


def curve_charts(folders: Mapping[str, tuple[Path, ...]], names: Sequence[str]) -> list[TermChart]:
    """Draw the curves of every term that the arms log, validation first; the most shared terms where there are many.

    Args:
        folders: arm -> its run folders.
        names: of the arms, in the order of their colors.
    """
    read = {name: [read_curves(folder) for folder in folders.get(name, ())] for name in names}
    users: dict[str, int] = {}
    for runs in read.values():
        for term in {term for run in runs for term in run}:
            users[term] = users.get(term, 0) + 1
    order = sorted(users, key=lambda term: (FIRST.index(term) if term in FIRST else len(FIRST), -users[term], term))
    return [_term_chart(term, read, names) for term in order[:MOST]]


def _term_chart(term: str, read: Mapping[str, list[dict[str, Curve]]], names: Sequence[str]) -> TermChart:
    traces, last = [], []
    for place, name in enumerate(names):
        joined = band([run[term] for run in read[name] if term in run])
        if not joined.steps:
            continue
        traces += _band_traces(name, place, joined)
        spread = f"{number(joined.low[-1], 3)} to {number(joined.high[-1], 3)}"
        last.append((name, number(joined.mean[-1], 3), spread if joined.n_runs > 1 else ""))
    drawn = layout(x="training step", y=term_title(term), height=330 + legend_height(len(last)))
    return TermChart(term, {"data": traces, "layout": drawn}, tuple(last))


def chart_of(curves: Mapping[str, Curve]) -> Figure:
    """Draw some terms of one run."""
    traces = [
        {
            "type": "scatter",
            "mode": "lines+markers" if len(joined.steps) <= 12 else "lines",
            "name": term_title(term),
            "x": list(joined.steps),
            "y": list(joined.mean),
            "line": {"color": look(place).color, "width": 2},
            "marker": {"symbol": look(place).symbol, "size": 6},
        }
        for place, (term, curve) in enumerate(curves.items(), 1)
        if (joined := band([curve])).steps
    ]
    return {"data": traces, "layout": layout(x="training step", y="value", height=260, showlegend=True)}


def term_title(term: str) -> str:
    """Say what a logged term is.

    >>> term_title("val/dice"), term_title("train/loss"), term_title("train/cross_entropy")
    ('validation Dice', 'training loss, weighted sum', 'training loss term cross_entropy')
    """
    known = {"val/dice": "validation Dice", "train/loss": "training loss, weighted sum"}
    kind, _, name = term.partition("/")
    return known.get(term) or f"{'training loss term' if kind == 'train' else 'validation'} {label(name)}"


def _band_traces(name: str, place: int, joined: Band) -> list[Figure]:
    """Draw the runs' range as an area and their mean as a line."""
    how, steps = look(place), list(joined.steps)
    shared = {"type": "scatter", "meta": name, "legendgroup": name, "name": label(name)}
    line = {
        **shared,
        "mode": "lines+markers" if len(steps) <= 12 else "lines",
        "x": steps,
        "y": list(joined.mean),
        "line": {"color": how.color, "dash": how.dash, "width": 2},
        "marker": {"symbol": how.symbol, "size": 6},
        "hovertemplate": f"%{{y:.3f}}<extra>{label(name)}</extra>",
    }
    if joined.n_runs < 2:
        return [line]
    area = {
        **shared,
        "mode": "lines",
        "x": steps + steps[::-1],
        "y": list(joined.high) + list(joined.low)[::-1],
        "fill": "toself",
        "fillcolor": how.soft,
        "line": {"width": 0},
        "hoverinfo": "skip",
        "showlegend": False,
    }
    return [area, line]
