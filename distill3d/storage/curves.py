"""Reads what a run logged step by step: its losses and validation. It draws nothing."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from distill3d.storage.run_folder import RunFolder

Curve = list[tuple[int, float]]


_FOLDER = re.compile(r"from_step(\d+)")


def read_curves(run: Path) -> dict[str, Curve]:
    """Read the training and validation curves of a run: term -> (step, value), ascending.

    A resumed run has a file per start. Steps that were lost and taken again are read from the newer file.

    Args:
        run: its folder; a run without curves gives none.
    """
    files = sorted(
        (int(match[1]), path)
        for path in run.glob("curves/from_step*/metrics.csv")
        if (match := _FOLDER.fullmatch(path.parent.name))
    )
    curves: dict[str, Curve] = {}
    for place, (_, path) in enumerate(files):
        end = files[place + 1][0] if place + 1 < len(files) else None
        for term, step, value in _values(path):
            if end is None or step < end:
                curves.setdefault(term, []).append((step, value))
    return curves


def _values(path: Path) -> Iterable[tuple[str, int, float]]:
    """Yield what a file holds of losses and validation; a line that is being written is left out."""
    try:
        written = path.read_text(encoding="utf-8", errors="replace")
    except OSError:  # a run that is resumed deletes the steps it lost
        return
    for row in csv.DictReader(written[: written.rfind("\n") + 1].splitlines()):
        step = row.get("step") or ""
        if not step.isdigit():
            continue
        for term, text in row.items():
            if term and text and term.startswith(("train/", "val/")) and (value := _finite(text)) is not None:
                yield term, int(step), value


def _finite(text: str) -> float | None:
    try:
        value = float(text)
    except ValueError:
        return None
    return value if np.isfinite(value) else None


def history(run: RunFolder, name: str) -> list[float]:
    """Values of a metric in the order of training, also of a run that is still going on."""
    values: dict[int, float] = {}
    for path in sorted(_curves(run), key=_first_step):
        start = _first_step(path)
        values = {step: value for step, value in values.items() if step < start}  # lost with the killed part
        values |= dict(_column(path, name))
    return [values[step] for step in sorted(values)]


def _curves(run: RunFolder) -> list[Path]:
    return list((run.path / "curves").glob("from_step*/metrics.csv"))


def _first_step(path: Path) -> int:
    return int(path.parent.name.removeprefix("from_step"))


def _column(path: Path, name: str) -> list[tuple[int, float]]:
    with path.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    pairs = []
    for row in rows:
        try:
            pairs.append((int(row["step"]), float(row[name])))
        except (KeyError, TypeError, ValueError):  # another metric's row, or one that is being written
            continue
    return pairs
