"""Tells a person how a sweep goes: a live table on a terminal, a line per event elsewhere."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, final

import optuna
from rich.console import Console
from rich.live import Live

from distill3d.sweep.outcome import Outcome
from distill3d.sweep.schema import Sweep
from distill3d.sweep.search import latest
from distill3d.sweep.tables import counts, status_table, values_text


@final
class Show:
    """What the runner tells.

    Args:
        sweep: the sweep.
        console: where to.
    """

    def __init__(self, sweep: Sweep, console: Console) -> None:
        self.sweep, self.console = sweep, console
        self._live = Live(console=console, auto_refresh=False, transient=True) if console.is_terminal else None

    def __enter__(self) -> Show:
        """Begin the live table."""
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Leave a clean terminal."""
        if self._live is not None:
            self._live.stop()

    def state(self, study: optuna.Study) -> None:
        """Redraw the table."""
        if self._live is None:
            return
        rows = latest(study)
        shown = [row for row in rows if row.state == "running"] + [
            row for row in rows if row.state not in {"running", "waiting"}
        ]
        fitting = shown[: max(5, self.console.height - 8)]
        self._live.update(status_table(self.sweep, fitting, title=f"{self.sweep.name}: {counts(rows)}"), refresh=True)

    def started(self, number: int, values: Mapping[str, Any], *, worker: int, flags: Sequence[str]) -> None:
        """A trial began."""
        again = f", {' '.join(flags)}" if flags else ""
        self._line(f"trial {number} starts on worker {worker}{again}: {values_text(self.sweep, values)}")

    def finished(self, number: int, value: float, *, seconds: float | None, enough: bool) -> None:
        """A trial finished."""
        took = "had finished before" if seconds is None else f"{seconds:.0f} s"
        end = "; the target is reached, no new trial starts" if enough else ""
        self._line(f"trial {number} finished: {self.sweep.metric.name} {value:.4f}, {took}{end}")

    def ended(self, number: int, ending: Outcome, *, retried: bool) -> None:
        """A trial ended without having finished."""
        self._line(f"trial {number} {ending.state}: {ending.reason}{'; it is tried again' if retried else ''}")

    def note(self, text: str) -> None:
        """Say something else."""
        self._line(text)

    def _line(self, text: str) -> None:
        # With a live table the lines scroll by above it
        self.console.print(text, soft_wrap=True, markup=False, highlight=False)
