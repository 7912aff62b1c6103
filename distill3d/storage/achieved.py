"""What a run achieved by a metric as W&B calls it: ``test/<score>``, or a value logged during training."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from distill3d.storage.curves import history
from distill3d.storage.record import Record
from distill3d.storage.run_folder import RunFolder

LOGGED = ("val/dice", "train/loss")


def best(values: Sequence[float], *, highest: bool) -> float | None:
    """Return the best of the finite values; None if there is none."""
    finite = [value for value in values if math.isfinite(value)]
    if not finite:
        return None
    return max(finite) if highest else min(finite)


def achieved(run: RunFolder, metric: str, *, highest: bool) -> float | None:
    """Return a run's value of a metric: a score of the end, or the best so far of what is logged; None before any.

    Args:
        run: its folder.
        metric: ``test/`` and a score, or one of `LOGGED`.
        highest: whether more is better.
    """
    if metric in LOGGED:
        return best(history(run, metric), highest=highest)
    value = scores(run).get(metric.removeprefix("test/"))
    return None if value is None else best([float(value)], highest=highest)


def scores(run: RunFolder) -> dict[str, Any]:
    """Mean scores of a finished run over its test cases; empty before."""
    return Record(run.metrics, run.read_json(run.metrics)).part("mean").numbers()
