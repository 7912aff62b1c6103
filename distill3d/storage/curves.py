"""Reads what a run logged step by step: its losses and validation."""

from __future__ import annotations

import csv
import math
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from distill3d.errors import printable
from distill3d.storage.record import LARGEST
from distill3d.storage.run_folder import RunFolder

Curve = list[tuple[int, float]]
_LAST_STEP = 10**15


_FOLDER = re.compile(r"from_step(\d+)")


def read_curves(run: Path) -> dict[str, Curve]:
    """Read the training and validation curves of a run: term -> (step, value), ascending, of finite values.

    A resumed run has a file per start. Steps that were lost and taken again are read from the newer file.

    Args:
        run: its folder; a run without curves gives none.
    """
    finite = {term: [(n, value) for n, value in curve if abs(value) <= LARGEST] for term, curve in _logged(run).items()}
    return {term: curve for term, curve in finite.items() if curve}


def history(run: RunFolder, name: str) -> list[float]:
    """Values of a term in the order of training, also of a run that is still going on and those that are not finite."""
    return [value for _, value in _logged(run.path).get(name, [])]


def _logged(run: Path) -> dict[str, Curve]:
    """Return every value of every term, each step from the newest file that has it."""
    files = sorted(
        (int(match[1]), path)
        for path in run.glob("curves/from_step*/metrics.csv")
        if (match := _FOLDER.fullmatch(path.parent.name))
    )
    ends = [*(start for start, _ in files[1:]), math.inf]
    curves: dict[str, dict[int, float]] = {}
    for (_, path), end in zip(files, ends, strict=False):
        for term, step, value in _values(path):
            if step < end:
                curves.setdefault(term, {})[step] = value
    return {term: sorted(curve.items()) for term, curve in curves.items()}


def _values(path: Path) -> Iterable[tuple[str, int, float]]:
    """Yield what a file holds of losses and validation; a line that is being written is left out."""
    try:
        written = path.read_text(encoding="utf-8", errors="replace")
    except OSError:  # a run that is resumed deletes the steps it lost
        return
    for row in _rows(written[: written.rfind("\n") + 1].split("\n")):
        step = _number(row.get("step"))
        if step is None or not (0 <= step <= _LAST_STEP and step.is_integer()):
            continue
        for term, text in row.items():
            if term and text and term.startswith(("train/", "val/")) and (value := _number(text)) is not None:
                yield printable(term), int(step), value


def _rows(lines: Iterable[str]) -> Iterable[dict[Any, Any]]:
    """Yield the rows of a table up to the first that is none."""
    try:
        yield from csv.DictReader(lines)
    except csv.Error:
        return


def _number(text: object) -> float | None:
    try:
        return float(str(text))
    except ValueError:
        return None
