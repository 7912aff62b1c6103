"""Keeps what a report is made of where it can be committed: settings, scores, cost and curves; no data, no weights."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable
from pathlib import Path

from distill3d.storage.run_folder import RunFolder


def keep_runs(folders: Iterable[Path], out: Path) -> None:
    """Copy the files that a report reads.

    Args:
        folders: of finished runs.
        out: gets a folder for each, with the path that it has below the folder that all are in. Put under
            ``runs/sweeps/<name>/trials``, they are the trials of a sweep that ``sweep run`` need not repeat.
    """
    runs = [RunFolder(path) for path in folders]
    root = Path(os.path.commonpath([run.path.resolve().parent for run in runs]))
    for run in runs:
        to = out / run.path.resolve().relative_to(root)
        for old in to.glob("curves/*/metrics.csv"):
            if not (run.path / old.relative_to(to)).is_file():
                old.unlink()  # of a run that was here before
        curves = run.path.glob("curves/*/metrics.csv")
        for file in (run.config, run.fit, run.metrics, *curves, run.done):  # the last one says that all are there
            copy = to / file.relative_to(run.path)
            if file.is_file() and not (copy.exists() and copy.samefile(file)):
                copy.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(file, copy)
