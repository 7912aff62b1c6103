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
    to_gold, to_pred = surface_distances(pred=pred, gold=gold, spacing=spacing_um)
    return scores_of_counts(
        both=int(np.count_nonzero(pred & gold)),
        sizes=(n_pred, n_gold),
        near_vox=_near(pred, gold, (1.0, 1.0, 1.0), tolerance_vox),
        near_um=None if tolerance_um is None else _near(pred, gold, spacing_um, tolerance_um),
        distances_um=(to_gold, to_pred),
        surface_um=surface_um,
    )


def scores_of_counts(
    *,
    both: int,
    sizes: tuple[int, int],
    near_vox: tuple[int, int],
    near_um: tuple[int, int] | None,
    distances_um: tuple[np.ndarray, np.ndarray],
    surface_um: float,
) -> VoxelScores:
    """Score a pair of masks of which none is empty, from what was counted of both.

    Args:
        both: voxels that are in both masks.
        sizes: voxels of the prediction and of gold.
        near_vox: those of each that are not in the other, but near one that is.
        near_um: likewise by the tolerance in um; None leaves its scores out.
        distances_um: of the surface voxels of each to the other's.
        surface_um: tolerance of ``nsd``.
    """
    to_gold, to_pred = distances_um
    precision_tol, recall_tol = ((both + near) / size for near, size in zip(near_vox, sizes, strict=True))
    in_um = None if near_um is None else [(both + near) / size for near, size in zip(near_um, sizes, strict=True)]
    return VoxelScores(
        dice=2 * both / sum(sizes),
        precision=both / sizes[0],
        recall=both / sizes[1],
        dice_tol=harmonic_mean(precision_tol, recall_tol),
        precision_tol=precision_tol,
        recall_tol=recall_tol,
        dice_tol_um=None if in_um is None else harmonic_mean(*in_um),
        precision_tol_um=None if in_um is None else in_um[0],
        recall_tol_um=None if in_um is None else in_um[1],
        nsd=share_within(to_gold, to_pred, surface_um),
        hd95_um=larger_percentile(to_gold, to_pred),
        asd_um=float((to_gold.sum() + to_pred.sum()) / (len(to_gold) + len(to_pred))),
        missed=False,
        n_pred=sizes[0],
        n_gold=sizes[1],
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


def _near(pred: np.ndarray, gold: np.ndarray, spacing: Sequence[float], tolerance: float) -> tuple[int, int]:
    """Count the voxels of each of two padded masks that are not in the other, but at most so far from it."""
    return count_within(pred & ~gold, gold, spacing, tolerance), count_within(gold & ~pred, pred, spacing, tolerance)


def count_within(points: np.ndarray, of: np.ndarray, spacing: Sequence[float], tolerance: float) -> int:
    """Count the voxels of one padded mask that have a voxel of the other at most so far away."""
    limit = tolerance + _SLACK
    distances = distances_to(of, np.flatnonzero(points), spacing=spacing, limit=limit)
    return int(np.count_nonzero(distances <= limit))
