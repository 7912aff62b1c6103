"""What only the dashboard shows, as plain data: runs that are going on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

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
        figure: its curves; None before there are any.
        last: newest values, in words.
    """

    name: str
    step: int
    steps: int | None
    age: str
    figure: Figure | None
    last: str


@final
@dataclass(frozen=True, kw_only=True, slots=True)
class Live:
    """What is going on.

    Args:
        state: changes whenever the page would.
        runs: that are not finished.
        every: seconds between two looks of the page for changes.
        problem: why finished runs cannot be compared; empty if they can.
    """

    state: str
    runs: tuple[LiveRun, ...]
    every: float = 5.0
    problem: str = ""
