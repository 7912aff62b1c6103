"""Runs a finished run again from its own files, and says which of its numbers came out otherwise."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, final

from rich.console import Console

from distill3d.config.paths import ConfigPath
from distill3d.config.plain import flatten
from distill3d.data.datamodule import DistillDataModule
from distill3d.errors import InputError
from distill3d.evaluation.run_scores import evaluate
from distill3d.experiment import experiment_from_plain
from distill3d.storage.rank import is_main_process
from distill3d.storage.record import Record
from distill3d.storage.run_folder import RunFolder
from distill3d.training.fit import fit

_ABSENT = "(not there)"
_CODE = ("commit", "distill3d", "python", "packages", "machine")


@final
@dataclass(frozen=True, slots=True)
class Reproduction:
    """What came out otherwise.

    Attributes:
        values: dotted key of ``metrics.json``, the run's value, the new one; times and provenance are left out.
        code: likewise of commit, packages and machine, which may be why.
    """

    values: tuple[tuple[str, object, object], ...] = ()
    code: tuple[tuple[str, object, object], ...] = ()


def reproduce(
    run: Path | str, *, out: Path | None = None, console: Console | None = None, allow_plugins: bool = False
) -> Reproduction:
    """Train, predict and score again with the settings that a run's ``config.yaml`` holds.

    With the same commit, packages and machine nothing differs. A trace that was tuned and tolerances of a later
    `evaluate` are taken over; W&B is not.

    Args:
        run: a finished run's folder.
        out: folder of runs for the new one; None takes a temporary one, which is deleted.
        console: see `fit`.
        allow_plugins: see `experiment_from_plain`.

    Raises:
        InputError: the run is not finished, has no scores or is damaged, its cases are others now, or ``out`` has
            such a run already.
    """
    folder = RunFolder(Path(run))
    if folder.state != "done" or not folder.metrics.is_file():
        raise InputError(f"{folder.path}: no finished run with scores; accepted: one with done.json and metrics.json")
    before = folder.read_json(folder.metrics)
    experiment = experiment_from_plain(folder.read_config(), source=folder.config, allow_plugins=allow_plugins)
    _ = DistillDataModule(experiment, run=folder).splits  # of other cases every value would differ
    with _place(out) as runs:
        again = RunFolder(runs / experiment.name / f"seed{experiment.seed}")
        if again.state != "absent":
            raise InputError(f"{again.path} holds a run; accepted: --out with a folder that does not")
        quiet = replace(experiment.logging, wandb="disabled")
        fit(replace(experiment, runs=ConfigPath(str(runs)), logging=quiet), console=console)
        if not is_main_process():
            return Reproduction()
        return _compared(before, _scored_alike(folder, again, before, allow_plugins=allow_plugins))


def _scored_alike(
    folder: RunFolder, again: RunFolder, before: Mapping[str, Any], *, allow_plugins: bool
) -> dict[str, Any]:
    """Return the new scores, taken as the run's last ones were: with its tuned trace, at its tolerances."""
    after, at = again.read_json(again.metrics), Record(folder.metrics, before).part("tolerances")
    if not folder.tuned.is_file() and at.content == after["tolerances"]:
        return after
    if folder.tuned.is_file():
        shutil.copy(folder.tuned, again.tuned)
    in_um = {key: value for key in at if key.endswith("_um") and (value := at.number(key)) is not None}
    return evaluate(again.path, tolerances_um=in_um, allow_plugins=allow_plugins)


def _compared(before: Mapping[str, Any], after: Mapping[str, Any]) -> Reproduction:
    then, now = flatten(before), flatten(after)
    changed = [
        (key, then.get(key, _ABSENT), now.get(key, _ABSENT))
        for key in dict.fromkeys([*then, *now])
        if then.get(key, _ABSENT) != now.get(key, _ABSENT)
    ]
    of_code = tuple(row for row in changed if row[0].startswith(tuple(f"provenance.{name}" for name in _CODE)))
    return Reproduction(tuple(row for row in changed if not _may_differ(row[0])), of_code)


def _may_differ(key: str) -> bool:
    """Whether a number tells of the machine's day, not of the result.

    >>> [_may_differ(f"cost.{key}") for key in ("fit_seconds", "peak_memory_gib", "data_wait_share", "parameters")]
    [True, True, True, False]
    """
    return key.startswith(("provenance.", "cost.fit_", "cost.peak_", "cost.data_wait_")) or (
        key.startswith("cost.") and "seconds" in key
    )


@contextmanager
def _place(out: Path | None) -> Iterator[Path]:
    if out is not None:
        yield out
        return
    with tempfile.TemporaryDirectory(prefix="distill3d-") as folder:
        yield Path(folder)
