"""Says whether a sweep goes on, and with which command."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Sequence
from pathlib import Path

from distill3d.storage.secrets import without_secrets
from distill3d.sweep.schema import Sweep
from distill3d.sweep.search import Attempt, default_storage
from distill3d.sweep.tables import counts


def reached(sweep: Sweep, rows: Iterable[Attempt]) -> bool:
    """Whether a trial has reached the target of the sweep's metric, after which none is begun."""
    return any(row.state == "finished" and row.value is not None and sweep.metric.reaches(row.value) for row in rows)


def what_goes_on(sweep: Sweep, rows: Sequence[Attempt], folder: Path, address: str, *, retries: int) -> str:
    """Name the command for trials that are not finished, with more tries where they are spent; empty if all are."""
    spent = [row.failures for row in rows if row.state == "failed" and row.failures >= retries]
    ends = {"finished", "pruned", *({"waiting"} if reached(sweep, rows) else ())}
    if all(row.state in ends for row in rows):
        return ""
    words = [*resume_words(sweep.name, folder, address), *(["--retries", str(max(spent) + 1)] if spent else [])]
    return f"{counts(rows)}; {shlex.join(words)} goes on"


def resume_words(name: str, folder: Path, address: str) -> list[str]:
    """Return the command that goes on with a sweep, with the folder and the storage that are not the usual ones."""
    runs = folder.parents[1]
    words = ["distill3d", "sweep", "resume", name, *(["--runs", str(runs)] if runs != Path("runs") else [])]
    return [*words, *(["--storage", without_secrets(address)] if address != default_storage(folder) else [])]
