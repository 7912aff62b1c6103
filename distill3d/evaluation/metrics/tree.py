"""Compare two neuron trees: Vaa3D's ESA, DSA and PDS, length found at a tolerance, tips and branch points."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, final

import numpy as np

from distill3d.errors import InputError
from distill3d.evaluation.metrics.masks import harmonic_mean
from distill3d.evaluation.metrics.tree_distance import (
    DSA_THRESHOLD,
    SLACK,
    Segments,
    TreeDistances,
    esa_dsa_pds,
    length_points,
    nearest_distances,
)
from distill3d.volumes.tree import Tree

DEFAULT_TREE_TOLERANCE = 4.0
Unit = Literal["vox", "um"]
# In the smallest spacing. Trees are sampled every voxel, so a tree that is longer has a wrong spacing or coordinate.
_MAX_COORDINATE, _MAX_LENGTH = 1e9, 5e7


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class TreeScores:
    """Scores of one pair of trees. No value is ever nan or infinite.

    Both trees empty: distances 0, ``pds`` 0, precision, recall and F1 1. Exactly one empty (``missed``): ``esa`` and
    ``dsa`` are the diagonal of the volume, ``pds`` is 1, the three shares are 0, so that a tracer that finds nothing
    cannot look good. A tree that has nodes but no edge is the set of its nodes. Beside edges, a node that has none
    counts for nothing, as in Vaa3D.

    Attributes:
        esa, dsa, pds: see ``metrics.tree_distance.TreeDistances``; DSA and PDS at the threshold 2 of the unit.
        precision: share of the predicted length within the tolerance of gold, in [0, 1].
        recall: share of the gold length within the tolerance of the prediction, in [0, 1].
        f1: their harmonic mean.
        length_pred, length_gold: sum of all edges, in the unit.
        length_error: absolute difference of the two, like every ``_error``.
        tips_pred, tips_gold, tips_error: nodes without a child, ``Tree.tips``. A root at an end of the neuron is none,
            so that two trees rooted at different places may differ by one.
        branches_pred, branches_gold, branches_error: nodes with two or more children, ``Tree.branch_points``.
        missed: exactly one of the trees is empty.
        unit: of all lengths and distances: voxels, or micrometers.
        tolerance: of precision and recall, in the unit.
    """

    esa: float
    dsa: float
    pds: float
    precision: float
    recall: float
    f1: float
    length_pred: float
    length_gold: float
    length_error: float
    tips_pred: int
    tips_gold: int
    tips_error: int
    branches_pred: int
    branches_gold: int
    branches_error: int
    missed: bool
    unit: Unit
    tolerance: float


class LengthScores(NamedTuple):
    """Precision, recall and F1 of length at a tolerance, as `TreeScores` has them."""

    precision: float
    recall: float
    f1: float


def tree_scores(
    *,
    pred: Tree,
    gold: Tree,
    spacing_um: Sequence[float] = (1.0, 1.0, 1.0),
    unit: Unit = "vox",
    tolerance: float = DEFAULT_TREE_TOLERANCE,
    vaa3d_compat: bool = False,
    shape_zyx: Sequence[int] | None = None,
) -> TreeScores:
    """Score a predicted tree against the gold one.

    Precision and recall count length: every edge is cut into equal pieces of at most a voxel, a piece is right if its
    midpoint lies within the tolerance (ends included) of an edge of the other tree. Where a tree has no length at all,
    its nodes count instead.

    Args:
        pred: in micrometers, as every ``Tree``.
        gold: the same.
        spacing_um: ZYX voxel size.
        unit: ``vox`` divides coordinates by the spacing, which undoes what ``read_swc`` multiplied: the scores are
            those Vaa3D gives of the files. ``um`` leaves them, the scores are those of files in micrometers.
        tolerance: of precision and recall, in the unit, at least 0.
        vaa3d_compat: draw an edge from every orphan to the first node for ESA, DSA and PDS, as Vaa3D does where a file
            does not hold a node's parent. Off, orphans are roots.
        shape_zyx: voxels of the volume the trees lie in; its diagonal is the distance of a missed tree. Without it the
            diagonal of the other tree's box is taken, but at least 2 and the tolerance.

    Raises:
        InputError: a coordinate is not finite, or spacing, tolerance or unit is none.

    >>> points = np.array([[0.0, 0, 0], [0, 0, 10]])
    >>> gold = Tree(points, np.ones(2), np.array([-1, 0]), np.array([1, 3]))
    >>> pred = Tree(points + [0, 3, 0], np.ones(2), np.array([-1, 0]), np.array([1, 3]))
    >>> scores = tree_scores(pred=pred, gold=gold)
    >>> scores.esa, scores.dsa, scores.pds, scores.f1, scores.unit
    (3.0, 3.0, 1.0, 1.0, 'vox')
    """
    scale, voxel = _require(pred, gold, spacing_um, unit, tolerance)
    of_pred, of_gold = _segments(pred, scale), _segments(gold, scale)
    missed = (pred.n_nodes == 0) != (gold.n_nodes == 0)
    if pred.n_nodes and gold.n_nodes:
        with_orphans = [_segments(tree, scale, draw_orphans=vaa3d_compat) for tree in (pred, gold)]
        apart = esa_dsa_pds(pred=with_orphans[0], gold=with_orphans[1])
    else:
        worst = _worst_distance(of_pred, of_gold, voxel, shape_zyx, tolerance) if missed else 0.0
        apart = TreeDistances(esa=worst, dsa=worst, pds=float(missed))
    return TreeScores(
        esa=apart.esa,
        dsa=apart.dsa,
        pds=apart.pds,
        **_length_scores(of_pred, of_gold, voxel, tolerance)._asdict(),
        **_compared("length", float(of_pred.lengths.sum()), float(of_gold.lengths.sum())),
        **_compared("tips", len(pred.tips), len(gold.tips)),
        **_compared("branches", len(pred.branch_points), len(gold.branch_points)),
        missed=missed,
        unit=unit,
        tolerance=float(tolerance),
    )


def length_scores(
    *, pred: Tree, gold: Tree, spacing_um: Sequence[float] = (1.0, 1.0, 1.0), unit: Unit = "vox", tolerance: float
) -> LengthScores:
    """Return precision, recall and F1 of length alone; arguments, errors and rules are those of `tree_scores`."""
    scale, voxel = _require(pred, gold, spacing_um, unit, tolerance)
    return _length_scores(_segments(pred, scale), _segments(gold, scale), voxel, tolerance)


def _length_scores(pred: Segments, gold: Segments, voxel: np.ndarray, tolerance: float) -> LengthScores:
    if len(pred.start) and len(gold.start):
        precision, recall = (_share_within(*pair, voxel, tolerance) for pair in ((pred, gold), (gold, pred)))
    else:
        precision = recall = float(len(pred.start) == len(gold.start))
    return LengthScores(precision, recall, harmonic_mean(precision, recall))


def _compared(name: str, of_pred: float, of_gold: float) -> dict[str, Any]:
    """Return both values and their absolute difference, named as `TreeScores` names them."""
    return {f"{name}_pred": of_pred, f"{name}_gold": of_gold, f"{name}_error": abs(of_pred - of_gold)}


def _require(
    pred: Tree, gold: Tree, spacing_um: Sequence[float], unit: str, tolerance: float
) -> tuple[np.ndarray, np.ndarray]:
    """Return what divides coordinates, and the size of a voxel in the unit, once all is what it must be."""
    spacing = np.asarray(spacing_um, np.float64)
    if spacing.shape != (3,) or not (np.isfinite(spacing) & (spacing > 0)).all():
        raise InputError(f"spacing_um: {tuple(spacing_um)} found; three finite numbers > 0 (z, y, x) are accepted")
    if unit not in {"vox", "um"}:
        raise InputError(f"unit: {unit!r} found; vox and um are accepted")
    if not 0 <= tolerance < np.inf:
        raise InputError(f"tolerance: {tolerance} found; a finite number >= 0 is accepted")
    for name, tree in (("pred", pred), ("gold", gold)):
        largest = np.abs(tree.points_zyx_um).max(initial=0.0) / spacing.min()
        if not largest <= _MAX_COORDINATE:
            raise InputError(f"{name}: a coordinate of {largest:g} voxels; finite ones to {_MAX_COORDINATE:g} accepted")
        if tree.length_um / spacing.min() > _MAX_LENGTH:
            length = tree.length_um / spacing.min()
            raise InputError(f"{name}: {length:g} voxels long; up to {_MAX_LENGTH:g} accepted, is the spacing right?")
    ones = np.ones(3)
    return (spacing, ones) if unit == "vox" else (ones, spacing)


def _segments(tree: Tree, scale: np.ndarray, *, draw_orphans: bool = False) -> Segments:
    """Return the edges of a tree, or its nodes where it has no edge, in coordinates divided by ``scale``."""
    points, edges = tree.points_zyx_um / scale, tree.edges
    if draw_orphans:
        edges = np.concatenate([edges, np.stack([tree.orphans, np.zeros_like(tree.orphans)], axis=1)])
    return Segments(points[edges[:, 0]], points[edges[:, 1]]) if len(edges) else Segments(points, points)


def _share_within(segments: Segments, of: Segments, voxel: np.ndarray, tolerance: float) -> float:
    """Return the share of length whose pieces lie within the tolerance of the other tree."""
    in_voxels = Segments(segments.start / voxel, segments.end / voxel).lengths
    points, lengths = length_points(segments, np.ceil(in_voxels).astype(np.int64).clip(min=1))
    weights = lengths if lengths.any() else np.ones_like(lengths)
    near = nearest_distances(points, of) <= tolerance + SLACK
    return float(weights[near].sum() / weights.sum()) if not near.all() else 1.0


def _worst_distance(
    pred: Segments, gold: Segments, voxel: np.ndarray, shape_zyx: Sequence[int] | None, tolerance: float
) -> float:
    """Return the distance that stands for a missed tree; see ``tree_scores``."""
    if shape_zyx is not None:
        return float(np.linalg.norm(np.asarray(shape_zyx) * voxel))
    ends = np.concatenate([pred.start, pred.end, gold.start, gold.end])
    return max(float(np.linalg.norm(np.ptp(ends, axis=0))), DSA_THRESHOLD, tolerance)
