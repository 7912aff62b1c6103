"""Compare two masks larger than memory as `voxel` and `topology` do, from their marked voxels alone."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, final

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import KDTree

from distill3d.errors import InputError
from distill3d.evaluation.metrics.masks import harmonic_mean
from distill3d.evaluation.metrics.surface import padded, surface_voxels
from distill3d.evaluation.metrics.topology import MAX_TOLERANCE_VOX, Betti, Components, betti, hits_of
from distill3d.evaluation.metrics.voxel import (
    DEFAULT_SURFACE_UM,
    DEFAULT_TOLERANCE_VOX,
    VoxelScores,
    count_within,
    diagonal_um,
    scores_of_counts,
    scores_of_empty,
)
from distill3d.volumes.parts import Box, box_around, box_shape, boxes, grown, within
from distill3d.volumes.pieces import Pieces
from distill3d.volumes.thinning import skeleton

_LOG = logging.getLogger(__name__)
PART = (64, 256, 256)
MOST = 1 << 25  # voxels of the largest box of a piece that is looked at whole
_AT_ONCE = 1 << 20  # points whose nearest ones are looked up
NEED_THE_WHOLE = (
    *("cldice", "cl_precision", "cl_recall", "betti1_pred", "betti1_gold", "betti1_error"),
    *("euler_pred", "euler_gold", "euler_error"),
)


def large_mask_scores(
    *,
    pred: Pieces,
    gold: Pieces,
    spacing_um: Sequence[float] = (1.0, 1.0, 1.0),
    tolerance_vox: float = DEFAULT_TOLERANCE_VOX,
    tolerance_um: float | None = None,
    surface_um: float = DEFAULT_SURFACE_UM,
    part: tuple[int, int, int] = PART,
    most: int = MOST,
    on_part: Callable[[], None] = lambda: None,
) -> dict[str, float]:
    """Score a predicted mask against the gold one; scores, arguments and rules are those of `mask_scores`.

    Args:
        pred: the mask.
        gold: of the same shape.
        spacing_um: ZYX voxel size.
        tolerance_vox: in voxels, in [0, 16].
        tolerance_um: None leaves its scores out.
        surface_um: of ``nsd``.
        part: voxels of the boxes that are looked at one by one.
        most: voxels of the largest box of a piece that is looked at whole; where there is a larger one the scores
            `NEED_THE_WHOLE` are left out, with a warning.
        on_part: called after each box.

    Raises:
        InputError: the shapes differ, or a tolerance is out of range.
    """
    _require(pred, gold, tolerance_vox, tolerance_um, surface_um)
    sums = _Sums(pred, gold, tuple(float(size) for size in spacing_um), tolerance_vox, tolerance_um)
    for box in boxes(pred.shape, part):
        sums.add(box)
        on_part()
    scores = asdict(_voxel_scores(sums, surface_um))
    missed = scores.pop("missed")
    topology = _of_pieces(sums, most) | _of_hits(sums) | {"missed": missed}
    return {name: float(value) for name, value in (scores | topology).items() if value is not None}


def _require(pred: Pieces, gold: Pieces, in_vox: float, in_um: float | None, surface_um: float) -> None:
    if pred.shape != gold.shape:
        raise InputError(f"masks: shapes {pred.shape} and {gold.shape}; one shape [Z, Y, X] is accepted")
    if not 0 <= in_vox <= MAX_TOLERANCE_VOX:
        raise InputError(f"tolerance_vox: {in_vox} found; 0 to {MAX_TOLERANCE_VOX} is accepted")
    for name, value in (("tolerance_um", in_um), ("surface_um", surface_um)):
        if value is not None and not value >= 0:
            raise InputError(f"{name}: {value} found; a number >= 0 is accepted")


@final
@dataclass(slots=True)
class _Sums:
    """What adds up over the parts of a volume; of each pair the first is of the prediction, the second of gold."""

    pred: Pieces
    gold: Pieces
    spacing_um: tuple[float, ...]
    tolerance_vox: float
    tolerance_um: float | None
    both: int = 0
    near_vox: list[int] = field(default_factory=lambda: [0, 0])  # of one alone, with the other that near
    near_um: list[int] = field(default_factory=lambda: [0, 0])
    surfaces: tuple[list[NDArray[np.int64]], list[NDArray[np.int64]]] = field(default_factory=lambda: ([], []))
    hits: list[NDArray[np.int64]] = field(default_factory=list)

    def add(self, box: Box) -> None:
        """Look at a part."""
        halo = [
            int(np.ceil(max(1.0, self.tolerance_vox, (self.tolerance_um or 0.0) / size))) for size in self.spacing_um
        ]
        wide = grown(box, halo, self.pred.shape)
        labels = [padded(mask.labels(wide), int(np.ceil(self.tolerance_vox))) for mask in (self.pred, self.gold)]
        masks = [each > 0 for each in labels]
        inside = np.zeros_like(masks[0])
        margin = (inside.shape[0] - box_shape(wide)[0]) // 2
        inside[tuple(slice(own.start + margin, own.stop + margin) for own in within(box, wide))] = True
        self.both += int(np.count_nonzero(masks[0] & masks[1] & inside))
        corner = np.array([own.start - margin for own in wide])
        for which, (mask, other) in enumerate((masks, masks[::-1])):
            if not mask.any():
                continue
            self.surfaces[which].append(self._surface(mask, inside, corner))
            alone = mask & ~other & inside
            if other.any() and alone.any():
                self.near_vox[which] += count_within(alone, other, (1.0, 1.0, 1.0), self.tolerance_vox)
                if self.tolerance_um is not None:
                    self.near_um[which] += count_within(alone, other, self.spacing_um, self.tolerance_um)
        if all(mask.any() for mask in masks):
            parts = [
                Components(labels=each, number=mask.count)
                for each, mask in zip(labels, (self.pred, self.gold), strict=True)
            ]
            self.hits.append(hits_of(masks[0], parts[0], parts[1], self.tolerance_vox))

    def _surface(
        self, mask: NDArray[np.bool_], inside: NDArray[np.bool_], corner: NDArray[np.int64]
    ) -> NDArray[np.int64]:
        """Return the voxels of a part's surface, as flat indices of the volume."""
        at = surface_voxels(mask)
        points = np.stack(np.unravel_index(at[inside.ravel()[at]], mask.shape), axis=1)
        return self.pred.flat(points + corner)


def _voxel_scores(sums: _Sums, surface_um: float) -> VoxelScores:
    sizes = len(sums.pred.voxels), len(sums.gold.voxels)
    if not all(sizes):
        diagonal = diagonal_um(sums.pred.shape, sums.spacing_um)
        return scores_of_empty(sizes[0], sizes[1], diagonal, in_um=sums.tolerance_um is not None)
    of_pred, of_gold = (np.concatenate(each) for each in sums.surfaces)
    return scores_of_counts(
        both=sums.both,
        sizes=sizes,
        near_vox=(sums.near_vox[0], sums.near_vox[1]),
        near_um=None if sums.tolerance_um is None else (sums.near_um[0], sums.near_um[1]),
        distances_um=_surface_distances(of_pred, of_gold, sums),
        surface_um=surface_um,
    )


def _surface_distances(
    of_pred: NDArray[np.int64], of_gold: NDArray[np.int64], sums: _Sums
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the distance of every surface voxel to the other surface: from the prediction, from gold."""

    def distances(own: NDArray[np.int64], other: NDArray[np.int64]) -> NDArray[np.float64]:
        away, spacing = np.flatnonzero(~np.isin(own, other)), np.array(sums.spacing_um)
        result = np.zeros(len(own))
        tree = KDTree(sums.pred.points(other) * spacing, leafsize=24, balanced_tree=False, compact_nodes=False)
        for start in range(0, len(away), _AT_ONCE):
            some = away[start : start + _AT_ONCE]
            result[some] = tree.query(sums.pred.points(own[some]) * spacing)[0]
        return result

    return distances(of_pred, of_gold), distances(of_gold, of_pred)


def _of_hits(sums: _Sums) -> dict[str, int]:
    """Return the scores of pieces that meet; see `topology.TopologyScores`."""
    n_pred, n_gold = sums.pred.count, sums.gold.count
    hits = np.unique(np.concatenate([np.empty((0, 2), np.int64), *sums.hits]), axis=0)
    met = np.bincount(hits[:, 1], minlength=n_gold + 1)[1:]
    return {"n_breaks": int(np.abs(met - 1).sum()), "n_spurious": n_pred - len(np.unique(hits[:, 0]))}


def _of_pieces(sums: _Sums, most: int) -> dict[str, Any]:
    """Return the scores that each piece adds to on its own, and those that only pieces looked at whole have."""
    counts = {"betti0_pred": sums.pred.count, "betti0_gold": sums.gold.count}
    scores: dict[str, Any] = {**counts, "betti0_error": abs(sums.pred.count - sums.gold.count)}
    of_pred = _whole_pieces(sums.pred, sums.gold, most)
    of_gold = None if of_pred is None else _whole_pieces(sums.gold, sums.pred, most)
    if of_pred is None or of_gold is None:
        _LOG.warning(
            "left out: %s; a piece of the mask lies in a box of more than %d voxels, too large to look at whole",
            ", ".join(NEED_THE_WHOLE),
            most,
        )
        return scores
    (shape_pred, share_pred), (shape_gold, share_gold) = of_pred, of_gold
    return {
        "cldice": harmonic_mean(share_pred, share_gold),
        "cl_precision": share_pred,
        "cl_recall": share_gold,
        **scores,
        "betti1_pred": shape_pred.tunnels,
        "betti1_gold": shape_gold.tunnels,
        "betti1_error": abs(shape_pred.tunnels - shape_gold.tunnels),
        "euler_pred": shape_pred.euler,
        "euler_gold": shape_gold.euler,
        "euler_error": abs(shape_pred.euler - shape_gold.euler),
    }


def _whole_pieces(mask: Pieces, other: Pieces, most: int) -> tuple[Betti, float] | None:
    """Return the Betti numbers of a mask, the sums of its pieces', and the share of its skeleton in another mask.

    None where a piece's box is too large.
    """
    numbers, length, inside = np.zeros(3, np.int64), 0, 0
    for voxels in mask.each():
        box = box_around(mask.points(voxels))
        if np.prod(box_shape(box)) > most:
            return None
        corner = np.array([own.start for own in box])
        solid = np.zeros(box_shape(box), bool)
        solid[tuple((mask.points(voxels) - corner).T)] = True
        numbers += betti(padded(solid), 1)
        lines = mask.flat(np.argwhere(skeleton(solid, solid.astype(np.int32))) + corner)
        length += len(lines)
        inside += int(np.count_nonzero(other.numbers_at(lines) >= 0))
    if not mask.count:
        return Betti(0, 0, 0), float(not other.count)
    return Betti(*numbers.tolist()), inside / length
