"""Compare two voxel masks of one neuron: overlap, overlap and surface overlap at a tolerance, surface distances."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

import numpy as np

from distill3d.evaluation.metrics.masks import box_of, harmonic_mean, known_pair
from distill3d.evaluation.metrics.surface import distances_to, padded, surface_distances

DEFAULT_TOLERANCE_VOX = 2.0
DEFAULT_SURFACE_UM = 2.0
_SLACK = 1e-9  # a root may round a distance up


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class VoxelScores:
    """Scores of one case. No value is ever nan.

    Both masks empty: shares are 1, distances 0. Exactly one empty (``missed``): shares are 0 and the distances are the
    volume's diagonal, so that a collapsed model cannot look good.

    Attributes:
        dice, precision, recall: of the foreground, in [0, 1].
        dice_tol, precision_tol, recall_tol: the same where a voxel counts as right within the tolerance, in [0, 1].
        dice_tol_um, precision_tol_um, recall_tol_um: likewise within a tolerance in um; None where there is none.
        nsd: share of both surfaces that lies within a tolerance in um of the other, in [0, 1].
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
    dice_tol_um: float | None
    precision_tol_um: float | None
    recall_tol_um: float | None
    nsd: float
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
    tolerance_um: float | None = None,
    surface_um: float = DEFAULT_SURFACE_UM,
) -> VoxelScores:
    """Score a predicted mask against the gold one.

    Precision at the tolerance t is the share of predicted voxels with a gold voxel at most t voxels away (Euclidean, in
    voxel units, ends included), recall the share of gold voxels with a predicted one that near, ``dice_tol`` their
    harmonic mean; t = 0 gives plain Dice. A tolerance in voxels is uneven where slices are thick: 2 voxels are 6 um
    along z where slices are 3 um thick. One in um is even. A surface voxel is in the mask and has one of its six face
    neighbors out of it; beyond the volume, and where nobody labelled, is out. Percentiles interpolate linearly.

    Source: Nikolov et al. 2018, Deep learning to achieve clinically applicable segmentation of head and neck anatomy
    for radiotherapy, arXiv 1809.04430 (the surface Dice, ``nsd``); every surface voxel counts once, as in MONAI's
    SurfaceDiceMetric, not by its area. The surface and percentile conventions are those of MONAI's
    HausdorffDistanceMetric. Two non-empty masks have MONAI's values; the rule for empty masks differs, there it is nan
    and drops out of the mean.

    Args:
        pred: bool [Z, Y, X].
        gold: bool [Z, Y, X].
        known: bool [Z, Y, X], False where nobody labelled: such voxels are taken out of both masks.
        spacing_um: ZYX voxel size, for the distances in um.
        tolerance_vox: t, in voxels, at least 0.
        tolerance_um: t of the scores that end in ``_tol_um``; None leaves them out.
        surface_um: tolerance of ``nsd``, ends included, at least 0.

    Raises:
        InputError: the shapes differ, a mask is not bool, or a tolerance is below 0.

    >>> gold = np.zeros((1, 1, 10), bool); gold[..., 2:6] = True
    >>> scores = voxel_scores(pred=np.roll(gold, 1), gold=gold, spacing_um=(1.0, 1.0, 0.5))
    >>> scores.dice, scores.dice_tol, scores.nsd
    (0.75, 1.0, 1.0)
    """
    tolerances = {"tolerance_vox": tolerance_vox, "tolerance_um": tolerance_um, "surface_um": surface_um}
    pred, gold = known_pair(pred=pred, gold=gold, known=known, **tolerances)
    n_pred, n_gold = int(np.count_nonzero(pred)), int(np.count_nonzero(gold))
    if not (n_pred and n_gold):
        return scores_of_empty(n_pred, n_gold, diagonal_um(pred.shape, spacing_um), in_um=tolerance_um is not None)
    box = box_of(pred | gold)
    pred, gold = padded(pred[box]), padded(gold[box])
    both = int(np.count_nonzero(pred & gold))
    in_vox = _overlap_within(pred, gold, (1.0, 1.0, 1.0), tolerance_vox)
    in_um = (None, None, None) if tolerance_um is None else _overlap_within(pred, gold, spacing_um, tolerance_um)
    to_gold, to_pred = surface_distances(pred=pred, gold=gold, spacing=spacing_um)
    return VoxelScores(
        dice=2 * both / (n_pred + n_gold),
        precision=both / n_pred,
        recall=both / n_gold,
        dice_tol=in_vox[0],
        precision_tol=in_vox[1],
        recall_tol=in_vox[2],
        dice_tol_um=in_um[0],
        precision_tol_um=in_um[1],
        recall_tol_um=in_um[2],
        nsd=share_within(to_gold, to_pred, surface_um),
        hd95_um=larger_percentile(to_gold, to_pred),
        asd_um=float((to_gold.sum() + to_pred.sum()) / (len(to_gold) + len(to_pred))),
        missed=False,
        n_pred=n_pred,
        n_gold=n_gold,
    )


def scores_of_empty(n_pred: int, n_gold: int, farthest_um: float, *, in_um: bool) -> VoxelScores:
    """Score a pair of which at least one mask is empty."""
    missed = n_pred != n_gold
    overlap, distance = (0.0, farthest_um) if missed else (1.0, 0.0)
    return VoxelScores(
        dice=overlap,
        precision=overlap,
        recall=overlap,
        dice_tol=overlap,
        precision_tol=overlap,
        recall_tol=overlap,
        dice_tol_um=overlap if in_um else None,
        precision_tol_um=overlap if in_um else None,
        recall_tol_um=overlap if in_um else None,
        nsd=overlap,
        hd95_um=distance,
        asd_um=distance,
        missed=missed,
        n_pred=n_pred,
        n_gold=n_gold,
    )


def diagonal_um(shape: tuple[int, ...], spacing_um: Sequence[float]) -> float:
    """Return the longest way through a volume, which no distance exceeds."""
    return float(np.linalg.norm(np.array(shape) * np.asarray(spacing_um, np.float64)))


def larger_percentile(to_gold: np.ndarray, to_pred: np.ndarray) -> float:
    """Return the larger of the 95th percentiles of the distances in both directions."""
    return float(max(np.percentile(to_gold, 95), np.percentile(to_pred, 95)))


def share_within(to_gold: np.ndarray, to_pred: np.ndarray, tolerance: float) -> float:
    """Return the share of surface voxels of both masks that are at most so far from the other surface."""
    near = sum(int(np.count_nonzero(distances <= tolerance + _SLACK)) for distances in (to_gold, to_pred))
    return near / (len(to_gold) + len(to_pred))


def _overlap_within(
    pred: np.ndarray, gold: np.ndarray, spacing: Sequence[float], tolerance: float
) -> tuple[float, float, float]:
    """Return Dice, precision and recall of two padded masks, where a voxel is right at most so far from the other."""
    both = int(np.count_nonzero(pred & gold))
    precision, recall = (
        (both + count_within(mask & ~other, other, spacing, tolerance)) / int(np.count_nonzero(mask))
        for mask, other in ((pred, gold), (gold, pred))
    )
    return harmonic_mean(precision, recall), precision, recall


def count_within(points: np.ndarray, of: np.ndarray, spacing: Sequence[float], tolerance: float) -> int:
    """Count the voxels of one padded mask that have a voxel of the other at most so far away."""
    limit = tolerance + _SLACK
    distances = distances_to(of, np.flatnonzero(points), spacing=spacing, limit=limit)
    return int(np.count_nonzero(distances <= limit))
