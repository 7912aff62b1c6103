"""What is under a folder of runs, and whether it changed: for the dashboard. It reads files and writes none."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import final

import yaml

from distill3d.errors import UserError
from distill3d.report.numerals import number
from distill3d.report.page.curves import chart_of, term_title
from distill3d.report.page.live import LiveRun
from distill3d.storage.curves import Curve, read_curves
from distill3d.storage.find import walk_runs
from distill3d.storage.links import link_out
from distill3d.storage.run_folder import RunFolder

DEPTH = 5  # folders between ``runs/`` and a run, at most: experiments, and trials of sweeps
TELLING = ("config.yaml", "metrics.json", "fit.json", "done.json")
SHOWN = ("val/dice", "train/loss")


@final
@dataclass(frozen=True, kw_only=True, slots=True)
class Scan:
    """Runs at one moment.

    Args:
        finished: folders with a ``done.json``.
        running: folders without.
        refused: folders that link to something outside.
        finished_state: changes whenever a finished run does.
        state: changes whenever anything does.
    """

    finished: tuple[Path, ...]
    running: tuple[Path, ...]
    refused: tuple[Path, ...]
    finished_state: str
    state: str


def scan(runs: Path) -> Scan:
    """Look for runs below a folder; what a link points to outside of it is not looked at."""
    root = runs.resolve()
    folders = sorted(walk_runs(root, depth=DEPTH, served=True))
    refused = tuple(folder for folder in folders if link_out(folder, root))
    kept = [folder for folder in folders if folder not in refused]
    finished = tuple(folder for folder in kept if RunFolder(folder).state == "done")
    running = tuple(folder for folder in kept if folder not in finished)
    finished_state = _state(finished, refused)
    state = hashlib.sha256((finished_state + _state(running, ())).encode()).hexdigest()[:16]
    return Scan(finished=finished, running=running, refused=refused, finished_state=finished_state, state=state)


def _state(folders: Sequence[Path], refused: Sequence[Path]) -> str:
    """Return a digest of the sizes and times of what a page is made of."""
    digest = hashlib.sha256(repr(list(map(str, refused))).encode())
    for folder in folders:
        for path in (*(folder / name for name in TELLING), *sorted(folder.glob("curves/*/metrics.csv"))):
            try:
                stat = path.stat()
            except OSError:
                continue
            digest.update(f"{path}:{stat.st_size}:{stat.st_mtime_ns}".encode())
    return digest.hexdigest()[:16]


def live_runs(folders: Sequence[Path], root: Path) -> tuple[LiveRun, ...]:
    """Read how far unfinished runs are, the one that wrote last first."""
    read = sorted(((_last_write(folder), folder) for folder in folders), reverse=True)
    return tuple(_live_run(folder, root.resolve(), wrote) for wrote, folder in read)


def _last_write(folder: Path) -> float:
    files = [*folder.glob("curves/*/metrics.csv"), folder / "config.yaml"]
    times = []
    for file in files:
        try:
            times.append(file.stat().st_mtime)
        except OSError:
            continue
    return max(times, default=0.0)


def _live_run(folder: Path, root: Path, wrote: float) -> LiveRun:
    curves = read_curves(folder)
    steps = [step for curve in curves.values() for step, _ in curve]
    shown = {term: curves[term] for term in SHOWN if term in curves} or dict(list(curves.items())[:2])
    return LiveRun(
        name=folder.relative_to(root).as_posix(),
        step=max(steps, default=-1) + 1,
        steps=_steps_asked(folder),
        age=f"last wrote {datetime.fromtimestamp(wrote, UTC):%d %B, %H:%M:%S} UTC",
        figure=chart_of(shown) if shown else None,
        last=_last_values(shown),
    )


def _steps_asked(folder: Path) -> int | None:
    """Return how many steps a run is to take; None where its settings do not say."""
    try:
        steps = RunFolder(folder).read_config()["trainer"]["steps"]
    except (UserError, OSError, yaml.YAMLError, KeyError, TypeError):
        return None
    return steps if isinstance(steps, int) and steps > 0 else None


def _last_values(curves: dict[str, Curve]) -> str:
    return ", ".join(f"{term_title(term)} {number(curve[-1][1], 3)}" for term, curve in curves.items())
