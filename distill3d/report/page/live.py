"""What only the dashboard shows, as plain data: runs that are going on, and sweeps."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

from distill3d.evaluation.figures.web import Picture
from distill3d.report.page.charts import Figure


@final
@dataclass(frozen=True, kw_only=True, slots=True)
class LiveRun:
    """A run that is not finished.

    Args:
        name: its folder.
        step: how many it has taken, as far as its curves tell.
        steps: in all; None where unknown.
        age: when it last wrote, in words.
        left: how long it will still take, in words; empty where unknown.
        tags: names of its parts, as W&B has them.
        seen: a validation patch as it saw it last; None where there is none.
        figure: its curves; None before there are any.
        last: newest values, in words.
    """

    name: str
    step: int
    steps: int | None
    age: str
    figure: Figure | None
    last: str
    left: str = ""
    tags: tuple[str, ...] = ()
    seen: Picture | None = None


@final
@dataclass(frozen=True, kw_only=True, slots=True)
class LiveTrial:
    """A trial of a sweep.

    Args:
        number: its folder.
        state: in a word.
        value: of the sweep's metric, the best so far where that is known; None before any.
        settings: what the sweep asks of it, in words.
        progress: how far it is, in words.
    """

    number: str
    state: str
    value: float | None
    settings: str
    progress: str


@final
@dataclass(frozen=True, kw_only=True, slots=True)
class LiveSweep:
    """A sweep.

    Args:
        name: its folder.
        metric: what its trials are judged by.
        trials: the best first.
        summary: how many are in which state.
    """

    name: str
    metric: str
    trials: tuple[LiveTrial, ...]
    summary: str


@final
@dataclass(frozen=True, kw_only=True, slots=True)
class Live:
    """What is going on.

    Args:
        state: changes whenever the page would.
        runs: that are not finished.
        sweeps: with trials, finished or not.
        every: seconds between two looks of the page for changes.
        problem: why finished runs cannot be compared; empty if they can.
    """

    state: str
    runs: tuple[LiveRun, ...]
    sweeps: tuple[LiveSweep, ...] = ()
    every: float = 5.0
    problem: str = ""
