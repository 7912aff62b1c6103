"""Otsu's threshold and the same tracer, the baseline that needs no training: scored once, and kept beside the cases.

On a dim stack it calls half of the volume neurite, which takes longer to score than to train a small network.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from distill3d.config.schema import EvaluationConfig
from distill3d.config.trace import TraceConfig
from distill3d.data.prepared import PreparedCase, code_hash
from distill3d.evaluation.case_scores import Found, Scores, case_scores, traced
from distill3d.evaluation.cleaning import Clean, Segmented, dice_by_size
from distill3d.storage.whole_folder import mark_used, read_meta, write_whole
from distill3d.volumes.otsu import above_otsu

OTSU = TraceConfig(input="image")
_FORMAT = 1  # of what is kept


def otsu_scores(case: PreparedCase, clean: Clean, evaluation: EvaluationConfig) -> tuple[Scores, str]:
    """Segment, trace and score a case by Otsu's threshold with the default settings.

    It gets the intensities as they were recorded: the clipping that helps a network would handicap it.

    Returns:
        Its scores, and why it was not traced, empty where it was.
    """

    def compute() -> dict[str, Any]:
        found = Found(above_otsu(case.raw), *traced(case, np.asarray(case.raw), OTSU))
        return {"scores": case_scores(case, found, clean, evaluation), "untraced": found.untraced}

    kept = _kept(case, ["scores", clean.min_voxels, dataclasses.asdict(evaluation)], compute)
    return kept["scores"], kept["untraced"]


def otsu_dice_by_size(case: PreparedCase) -> NDArray[np.float64]:
    """Return `dice_by_size` of a case that is segmented by Otsu's threshold."""

    def compute() -> dict[str, Any]:
        segmented = Segmented(above_otsu(case.raw), case.mask, case.known)
        return {"dice": dice_by_size(segmented, OTSU.min_voxels).tolist()}

    return np.array(_kept(case, ["dice by size"], compute)["dice"])


def _kept(case: PreparedCase, what: list[Any], compute: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """Return what was computed of a prepared case before by the same code, else compute and keep it."""
    code = code_hash("distill3d.evaluation", "distill3d.tracing", "distill3d.volumes", "distill3d.config.trace")
    address = json.dumps([case.folder.name, what, _FORMAT, code])
    folder = case.folder.parent.parent / "baselines" / hashlib.sha256(address.encode()).hexdigest()[:32]
    found = read_meta(folder, version=_FORMAT)
    mark_used(folder)
    if found is None:
        found = compute()
        with contextlib.suppress(OSError):  # somebody else's cache may be read-only
            folder.parent.mkdir(parents=True, exist_ok=True)
            write_whole(folder, lambda _: found, version=_FORMAT)
    return found
