"""All scores of a case's masks, by name."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict

import numpy as np

from distill3d.evaluation.metrics.topology import topology_scores
from distill3d.evaluation.metrics.voxel import DEFAULT_TOLERANCE_VOX, voxel_scores


def mask_scores(
    *,
    pred: np.ndarray,
    gold: np.ndarray,
    known: np.ndarray | None = None,
    spacing_um: Sequence[float] = (1.0, 1.0, 1.0),
    tolerance_vox: float = DEFAULT_TOLERANCE_VOX,
) -> dict[str, float]:
    """Score a predicted mask against the gold one in every way; never nan.

    Args, errors and rules are those of ``voxel_scores`` and ``topology_scores``.

    >>> gold = np.zeros((1, 1, 10), bool); gold[..., 2:6] = True
    >>> scores = mask_scores(pred=gold, gold=gold)
    >>> scores["dice"], scores["cldice"], scores["missed"]
    (1.0, 1.0, 0.0)
    """
    voxel = voxel_scores(pred=pred, gold=gold, known=known, spacing_um=spacing_um, tolerance_vox=tolerance_vox)
    topology = topology_scores(pred=pred, gold=gold, known=known, tolerance_vox=tolerance_vox)
    of_voxels = asdict(voxel)
    del of_voxels["missed"]  # both have it; it comes last
    return {name: float(value) for name, value in (of_voxels | asdict(topology)).items()}
