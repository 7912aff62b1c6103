"""Compare two voxel masks of one neuron: overlap, overlap at a tolerance, and distances of their surfaces."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

import numpy as np

from distill3d.evaluation.metrics.masks import box_of, harmonic_mean, known_pair
from distill3d.evaluation.metrics.surface import distances_to, padded, surface_distances

DEFAULT_TOLERANCE_VOX = 2.0


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class VoxelScores:
    """Scores of one case. No value is ever nan.

    Both masks empty: the first six are 1, distances 0. Exactly one empty (``missed``): the six are 0 and the distances
    are the volume's diagonal, so that a collapsed model cannot look good.

    Attributes:
        dice, precision, recall: of the foreground, in [0, 1].
        dice_tol, precision_tol, recall_tol: the same where a voxel counts as right within the tolerance, in [0, 1].
        hd95_um: larger of the two directed 95th percentiles of surface distances.
        asd_um: mean of all surface distances of both directions.
        missed: exactly one of the masks is empty.
        n_pred, n_gold: foreground voxels that were compared.
    """

    dice: float
    precision: float
    recall: float
    dice_tol: float
    precision_tol: float
    recall_tol: float
    hd95_um: float
    asd_um: float
    missed: bool
    n_pred: int
    n_gold: int


def voxel_scores(
    *,
    pred: np.ndarray,
    gold: np.ndarray,
    known: np.ndarray | None = None,
    spacing_um: Sequence[float] = (1.0, 1.0, 1.0),
    tolerance_vox: float = DEFAULT_TOLERANCE_VOX,
) -> VoxelScores:
    """Score a predicted mask against the gold one.

    Precision at the tolerance t is the share of predicted voxels with a gold voxel at most t voxels away (Euclidean, in
    voxel units, ends included), recall the share of gold voxels with a predicted one that near, ``dice_tol`` their
    harmonic mean; t = 0 gives plain Dice. A surface voxel is in the mask and has one of its six face neighbors out of
    it; beyond the volume, and where nobody labelled, is out. Percentiles interpolate linearly.

    Source: the surface and percentile conventions of MONAI's HausdorffDistanceMetric (same value on two non-empty
    masks); the rule for empty masks differs, there it is nan and drops out of the mean.

    Args:
        pred: bool [Z, Y, X].
        gold: bool [Z, Y, X].
        known: bool [Z, Y, X], False where nobody labelled: such voxels are taken out of both masks.
        spacing_um: ZYX voxel size, for the distances in um.
        tolerance_vox: t, in voxels, at least 0.

    Raises:
        InputError: the shapes differ, a mask is not bool, or the tolerance is below 0.

    >>> gold = np.zeros((1, 1, 10), bool); gold[..., 2:6] = True
    >>> scores = voxel_scores(pred=np.roll(gold, 1), gold=gold, spacing_um=(1.0, 1.0, 0.5))
    >>> scores.dice, scores.dice_tol
    (0.75, 1.0)
    """
    pred, gold = known_pair(pred=pred, gold=gold, known=known, tolerance_vox=tolerance_vox)
    n_pred, n_gold = int(np.count_nonzero(pred)), int(np.count_nonzero(gold))
    if not (n_pred and n_gold):
        return _scores_of_empty(n_pred, n_gold, _diagonal_um(pred.shape, spacing_um))
    box = box_of(pred | gold)
    pred, gold = padded(pred[box]), padded(gold[box])
    both = int(np.count_nonzero(pred & gold))
    precision_tol = (both + _count_within(pred & ~gold, gold, tolerance_vox)) / n_pred
    recall_tol = (both + _count_within(gold & ~pred, pred, tolerance_vox)) / n_gold
    to_gold, to_pred = surface_distances(pred=pred, gold=gold, spacing=spacing_um)
    return VoxelScores(
        dice=2 * both / (n_pred + n_gold),
        precision=both / n_pred,
        recall=both / n_gold,
        dice_tol=harmonic_mean(precision_tol, recall_tol),
        precision_tol=precision_tol,
        recall_tol=recall_tol,
        hd95_um=_larger_percentile(to_gold, to_pred),
        asd_um=float((to_gold.sum() + to_pred.sum()) / (len(to_gold) + len(to_pred))),
        missed=False,
        n_pred=n_pred,
        n_gold=n_gold,
    )


def _scores_of_empty(n_pred: int, n_gold: int, diagonal_um: float) -> VoxelScores:
    """Score a pair of which at least one mask is empty."""
    missed = n_pred != n_gold
    overlap, distance = (0.0, diagonal_um) if missed else (1.0, 0.0)
    return VoxelScores(
        dice=overlap,
        precision=overlap,
        recall=overlap,
        dice_tol=overlap,
        precision_tol=overlap,
        recall_tol=overlap,
        hd95_um=distance,
        asd_um=distance,
        missed=missed,
        n_pred=n_pred,
        n_gold=n_gold,
    )


def _diagonal_um(shape: tuple[int, ...], spacing_um: Sequence[float]) -> float:
    return float(np.linalg.norm(np.array(shape) * np.asarray(spacing_um, np.float64)))


def _larger_percentile(to_gold: np.ndarray, to_pred: np.ndarray) -> float:
    return float(max(np.percentile(to_gold, 95), np.percentile(to_pred, 95)))


def _count_within(points: np.ndarray, of: np.ndarray, tolerance_vox: float) -> int:
    """Count the voxels of one padded mask that have a voxel of the other at most so far away."""
    limit = tolerance_vox + 1e-9  # sqrt may round a distance up
    distances = distances_to(of, np.flatnonzero(points), spacing=(1.0, 1.0, 1.0), limit=limit)
    return int(np.count_nonzero(distances <= limit))
