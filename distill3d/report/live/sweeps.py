"""Sweeps under a folder of runs, as their files show them: every trial, the best first. It reads files, no storage."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from distill3d.errors import UserError
from distill3d.report.live.scan import last_change, settings_of, steps_asked, sweep_of
from distill3d.report.page.live import LiveSweep, LiveTrial
from distill3d.storage.achieved import achieved
from distill3d.storage.curves import read_curves
from distill3d.storage.lock import NAME, seems_held
from distill3d.storage.record import read_plain
from distill3d.storage.run_folder import RunFolder

STATES = ("finished", "running", "stopped", "no run")


def live_sweeps(trials: Sequence[Path], root: Path) -> tuple[LiveSweep, ...]:
    """Read the sweeps that have trials, the one whose trials changed last first.

    Args:
        trials: folders of their runs, see `distill3d.report.live.scan.Scan`.
        root: folder of all runs.
    """
    root = root.resolve()
    runs: dict[str, dict[str, Path]] = {}
    for run in trials:
        if place := sweep_of(run, root):
            runs.setdefault(place[0], {})[place[1]] = run
    names = sorted(runs, key=lambda name: last_change(runs[name].values()), reverse=True)
    return tuple(_live_sweep(root / "sweeps" / name, runs[name]) for name in names)


def _live_sweep(folder: Path, runs: Mapping[str, Path]) -> LiveSweep:
    metric, highest = _metric(folder / "sweep.yaml")
    trials = [
        _live_trial(folder / "trials" / name, runs.get(name), metric, highest=highest) for name in _trials(folder)
    ]
    sign = -1 if highest else 1
    trials.sort(key=lambda trial: (trial.value is None, sign * (trial.value or 0.0), trial.number))
    number = Counter(trial.state for trial in trials)
    states = ", ".join(f"{number[state]} {state}" for state in STATES if number[state])
    return LiveSweep(
        name=folder.name, metric=metric, trials=tuple(trials), summary=f"{len(trials)} trials so far, {states}"
    )


def _trials(folder: Path) -> list[str]:
    try:
        return [each.name for each in os.scandir(folder / "trials") if each.is_dir(follow_symlinks=False)]
    except OSError:
        return []


def _metric(path: Path) -> tuple[str, bool]:
    """Return the name of a sweep's metric, and whether more is better: not unless it says so."""
    metric = _read(path).get("metric")
    metric = metric if isinstance(metric, dict) else {}
    name = metric.get("name")
    return (name, metric.get("goal") == "maximize") if isinstance(name, str) else ("val/dice", True)


def _live_trial(folder: Path, run: Path | None, metric: str, *, highest: bool) -> LiveTrial:
    settings = ", ".join(f"{key}={value}" for key, value in _read(folder / "arguments.json").items())
    if run is None:
        return LiveTrial(number=folder.name, state="no run", value=None, settings=settings, progress="")
    state = "finished" if RunFolder(run).state == "done" else "running" if seems_held(run / NAME) else "stopped"
    try:
        value = achieved(RunFolder(run), metric, highest=highest)
    except UserError:
        value = None
    progress = "" if state == "finished" else _progress(run)
    return LiveTrial(number=folder.name, state=state, value=value, settings=settings, progress=progress)


def _progress(run: Path) -> str:
    curves = read_curves(run)
    step = max((step for curve in curves.values() for step, _ in curve), default=-1) + 1
    asked = steps_asked(settings_of(run))
    seen = f", validation Dice {curves['val/dice'][-1][1]:.3f}" if "val/dice" in curves else ""
    return f"step {step}{f' of {asked}' if asked else ''}{seen}"


def _read(path: Path) -> dict[str, Any]:
    """Return what a file holds; nothing where it cannot be read, or is a link to who knows where."""
    try:
        return {} if path.is_symlink() else read_plain(path)
    except UserError:
        return {}
