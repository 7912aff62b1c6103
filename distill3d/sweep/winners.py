"""The winner of every arm of a tuning sweep, in a file that `distill3d.config.tuned` reads.

A tuning gives every arm (the parameter ``experiment``) the same trials and judges them on validation cases alone. All
that it varies beside arms, seeds and folds is what it chooses. A trial that failed or was stopped early counts as one
that the arm had, and its setting cannot win.
"""

from __future__ import annotations

import datetime as dt
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from distill3d.config.files import ARM, parse_overrides
from distill3d.config.tuned import ARMS
from distill3d.errors import InputError
from distill3d.storage.provenance import provenance
from distill3d.storage.run_folder import write_text
from distill3d.sweep.plan import make_trial, setting_of
from distill3d.sweep.schema import Sweep
from distill3d.sweep.search import Attempt

METRIC = "val/dice"  # by which a tuning may choose: training's loss is not comparable, and test cases are not for this
_ENDED = ("finished", "failed", "pruned")
_HEAD = """# What each arm won with. Written by: distill3d sweep winners {names}
# Read by: tuned.file={path}
"""


def is_tuning(sweep: Sweep, rows: Sequence[Attempt]) -> bool:
    """Whether a sweep has arms and chose among their settings, to its end and on validation cases alone."""
    return any(parameter.key == ARM for parameter in sweep.parameters) and not _objection(sweep, rows)


def _objection(sweep: Sweep, rows: Sequence[Attempt]) -> str:
    """Say why no winners can be told; empty where they can."""
    if sweep.metric.name != METRIC:
        return f"chooses by {sweep.metric.name}; accepted: metric.name {METRIC}, on validation cases"
    if (going := [row for row in rows if row.state not in _ENDED]) or not rows:
        return f"{len(going)} of {len(rows)} trials have not ended; accepted: sweep resume {sweep.name} first"
    if any(row.scores for row in rows):
        return "its trials looked at test cases; accepted: data.test=[] (simulated: data.test=0) in its command"
    data = [{key: value for key, value in setting_of(row.values).items() if key.startswith("data.")} for row in rows]
    if any(each != data[0] for each in data):
        return f"varies {', '.join(data[0])}; accepted: folds of the same sizes, or a sweep for each"
    return ""


def winners(sweep: Sweep, rows: Sequence[Attempt], folder: Path) -> dict[str, dict[str, Any]]:
    """Experiment -> what it won with, in how many trials.

    Args:
        sweep: that ran.
        rows: the last attempt of every trial.
        folder: of the sweep.

    Raises:
        InputError: it has not ended, is no tuning, or no setting of an arm finished in all of its trials.
    """
    if objection := _objection(sweep, rows):
        raise InputError(f"sweep {sweep.name}: {objection}")
    by_arm: dict[str, list[Attempt]] = {}
    for row in rows:
        by_arm.setdefault(str(row.values.get(ARM)), []).append(row)
    names = [make_trial(sweep, tried[0].number, tried[0].values, folder).experiment.name for tried in by_arm.values()]
    return {name: _winner(sweep, name, tried) for name, tried in zip(names, by_arm.values(), strict=True)}


def _winner(sweep: Sweep, name: str, tried: Sequence[Attempt]) -> dict[str, Any]:
    settings: dict[str, list[Attempt]] = {}
    for row in tried:
        settings.setdefault(repr(setting_of(row.values)), []).append(row)
    means = {
        key: statistics.fmean(row.value or 0.0 for row in rows)
        for key, rows in settings.items()
        if all(row.state == "finished" and row.value is not None for row in rows)
    }
    if not means:
        raise InputError(f"sweep {sweep.name}: no setting of {name} finished in all of its trials")
    best = (max if sweep.metric.goal == "maximize" else min)(means, key=lambda key: means[key])
    return {
        "settings": _chosen(settings[best][0].values),
        "trials": len(tried),
        "failed": sum(row.state == "failed" for row in tried),
        "sweep": sweep.name,
        "metric": sweep.metric.name,
        "value": round(means[best], 6),
    }


def _chosen(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values as nested settings, without arm, seed and cases."""
    kept = {key: value for key, value in values.items() if key not in {ARM, "seed"} and key.partition(".")[0] != "data"}
    return parse_overrides([f"{key}={value}" for key, value in kept.items()])


def write_winners(tunings: Sequence[tuple[Sweep, Sequence[Attempt], Path]], out: Path) -> list[str]:
    """Write the winners of one or several tunings to one file.

    Args:
        tunings: a sweep, its trials and its folder, each.
        out: the file.

    Returns:
        A line per arm, then one about arms that had other numbers of trials than most.

    Raises:
        InputError: see `winners`; or two sweeps tuned one arm.
    """
    arms: dict[str, dict[str, Any]] = {}
    for sweep, rows, folder in tunings:
        for name, won in winners(sweep, rows, folder).items():
            if name in arms:
                raise InputError(
                    f"{name} is an arm of {arms[name]['sweep']} and of {sweep.name}; accepted: one of them"
                )
            arms[name] = won
    names = " ".join(sweep.name for sweep, *_ in tunings)
    stamp = {"created": dt.datetime.now(dt.UTC).isoformat(timespec="seconds"), **provenance()}
    content = yaml.safe_dump({ARMS: arms, "provenance": stamp}, sort_keys=False)
    write_text(out, _HEAD.format(names=names, path=out) + content)
    return _lines(arms)


def _lines(arms: Mapping[str, Mapping[str, Any]]) -> list[str]:
    lines = [f"{name}: {won['settings']} of {won['trials']} trials" for name, won in arms.items()]
    counts = sorted({won["trials"] for won in arms.values()})
    if len(counts) > 1:
        lines.append(f"UNEQUAL: arms had {counts[0]} to {counts[-1]} trials; a report will say so")
    return lines
