"""Compare two masks larger than memory as `voxel` and `topology` do, from their marked voxels alone."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from typing import Any, NamedTuple, final

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
from distill3d.volumes.calls import Workers, grouped, made
from distill3d.volumes.parts import Box, box_around, box_shape, boxes, grown, within
from distill3d.volumes.pieces import Pieces, flat_of, points_of
from distill3d.volumes.thinning import skeleton

_LOG = logging.getLogger(__name__)
PART = (64, 256, 256)
MOST = 1 << 25  # voxels of the largest box of a piece that is looked at whole
_AT_ONCE = 1 << 17  # points whose nearest ones are looked up by one call
_GROUP = 1 << 20  # voxels of the boxes of pieces that are looked at by one call
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
    workers: Workers | None = None,
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
        workers: look at boxes, surfaces and pieces, see `distill3d.volumes.cluster.workers`; None: this process does.

    Raises:
        InputError: the shapes differ, or a tolerance is out of range.
    """
    _require(pred, gold, tolerance_vox, tolerance_um, surface_um)
    near = _Near(tuple(float(size) for size in spacing_um), tolerance_vox, tolerance_um)
    sums = _Counts()
    for counts in made(_count, near, _parts(pred, gold, near, part), workers):
        sums.add(counts)
        on_part()
    scores = asdict(_voxel_scores(pred, gold, sums, near, surface_um, workers))
    missed = scores.pop("missed")
    topology = _of_pieces(pred, gold, most, workers) | _of_hits(pred, gold, sums) | {"missed": missed}
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
@dataclass(frozen=True, slots=True)
class _Near:
    """How near counts as right."""

    spacing_um: tuple[float, ...]
    tolerance_vox: float
    tolerance_um: float | None

    @property
    def halo(self) -> list[int]:
        """Voxels around a part that may be near one in it."""
        return [math.ceil(max(1.0, self.tolerance_vox, (self.tolerance_um or 0.0) / size)) for size in self.spacing_um]


@final
@dataclass(slots=True)
class _Counts:
    """What adds up over the parts of a volume; of each pair the first is of the prediction, the second of gold."""

    both: int = 0
    near_vox: list[int] = field(default_factory=lambda: [0, 0])  # of one alone, with the other that near
    near_um: list[int] = field(default_factory=lambda: [0, 0])
    surfaces: tuple[list[NDArray[np.int64]], list[NDArray[np.int64]]] = field(default_factory=lambda: ([], []))
    hits: list[NDArray[np.int64]] = field(default_factory=list)

    def add(self, other: _Counts) -> None:
        """Add those of another part."""
        self.both += other.both
        self.hits += other.hits
        for which in (0, 1):
            self.near_vox[which] += other.near_vox[which]
            self.near_um[which] += other.near_um[which]
            self.surfaces[which].extend(other.surfaces[which])


@final
class _Part(NamedTuple):
    """A box, and what of prediction and gold lies in it and in a wider one."""

    box: Box
    wide: Box
    masks: tuple[Pieces, Pieces]


def _parts(pred: Pieces, gold: Pieces, near: _Near, size: tuple[int, int, int]) -> Iterator[_Part]:
    for box in boxes(pred.shape, size):
        wide = grown(box, near.halo, pred.shape)
        yield _Part(box, wide, (pred.cut(wide), gold.cut(wide)))


def _count(near: _Near, part: _Part) -> _Counts:
    counts, margin = _Counts(), math.ceil(near.tolerance_vox)
    if not any(len(mask.voxels) for mask in part.masks):
        return counts
    labels = [padded(mask.labels(part.wide), margin) for mask in part.masks]
    masks = [each > 0 for each in labels]
    inside = np.zeros_like(masks[0])
    margin = (inside.shape[0] - box_shape(part.wide)[0]) // 2
    inside[tuple(slice(own.start + margin, own.stop + margin) for own in within(part.box, part.wide))] = True
    counts.both = int(np.count_nonzero(masks[0] & masks[1] & inside))
    corner = np.array([own.start - margin for own in part.wide])
    for which, (mask, other) in enumerate((masks, masks[::-1])):
        if not mask.any():
            continue
        at = surface_voxels(mask)
        points = np.stack(np.unravel_index(at[inside.ravel()[at]], mask.shape), axis=1)
        counts.surfaces[which].append(part.masks[which].flat(points + corner))
        alone = mask & ~other & inside
        if other.any() and alone.any():
            counts.near_vox[which] = count_within(alone, other, (1.0, 1.0, 1.0), near.tolerance_vox)
            if near.tolerance_um is not None:
                counts.near_um[which] = count_within(alone, other, near.spacing_um, near.tolerance_um)
    if all(mask.any() for mask in masks):
        pieces = [Components(labels=each, number=mask.count) for each, mask in zip(labels, part.masks, strict=True)]
        counts.hits.append(hits_of(masks[0], pieces[0], pieces[1], near.tolerance_vox))
    return counts


def _voxel_scores(
    pred: Pieces, gold: Pieces, sums: _Counts, near: _Near, surface_um: float, workers: Workers | None
) -> VoxelScores:
    sizes, in_um = (len(pred.voxels), len(gold.voxels)), near.tolerance_um is not None
    if not all(sizes):
        return scores_of_empty(sizes[0], sizes[1], diagonal_um(pred.shape, near.spacing_um), in_um=in_um)
    of_pred, of_gold = (_Surface(np.concatenate(each), pred.shape, np.array(near.spacing_um)) for each in sums.surfaces)
    return scores_of_counts(
        both=sums.both,
        sizes=sizes,
        near_vox=(sums.near_vox[0], sums.near_vox[1]),
        near_um=(sums.near_um[0], sums.near_um[1]) if in_um else None,
        distances_um=(_distances(of_pred, of_gold, workers), _distances(of_gold, of_pred, workers)),
        surface_um=surface_um,
    )


@final
@dataclass(frozen=True)
class _Surface:
    """The voxels of a mask's surface, as flat indices of the volume."""

    voxels: NDArray[np.int64]
    shape: tuple[int, int, int]
    spacing_um: NDArray[np.float64]

    @cached_property
    def tree(self) -> KDTree:
        """Finds the nearest; in this process from the first call on."""
        return KDTree(self.points_um(self.voxels), leafsize=24, balanced_tree=False, compact_nodes=False)

    def points_um(self, voxels: NDArray[np.int64]) -> NDArray[np.float64]:
        """Return where voxels are."""
        return points_of(voxels, self.shape) * self.spacing_um


def _distances(own: _Surface, other: _Surface, workers: Workers | None) -> NDArray[np.float64]:
    """Return the distance of every voxel of a surface to another one."""
    away = np.flatnonzero(~np.isin(own.voxels, other.voxels))
    some = (own.voxels[away[start : start + _AT_ONCE]] for start in range(0, len(away), _AT_ONCE))
    result = np.zeros(len(own.voxels))
    result[away] = np.concatenate([np.empty(0), *made(_distance, other, some, workers)])
    return result


def _distance(to: _Surface, voxels: NDArray[np.int64]) -> NDArray[np.float64]:
    return to.tree.query(to.points_um(voxels))[0]


def _of_hits(pred: Pieces, gold: Pieces, sums: _Counts) -> dict[str, int]:
    """Return the scores of pieces that meet; see `topology.TopologyScores`."""
    hits = np.unique(np.concatenate([np.empty((0, 2), np.int64), *sums.hits]), axis=0)
    met = np.bincount(hits[:, 1], minlength=gold.count + 1)[1:]
    return {"n_breaks": int(np.abs(met - 1).sum()), "n_spurious": pred.count - len(np.unique(hits[:, 0]))}


def _of_pieces(pred: Pieces, gold: Pieces, most: int, workers: Workers | None) -> dict[str, Any]:
    """Return the scores that each piece adds to on its own, and those that only pieces looked at whole have."""
    scores: dict[str, Any] = {
        "betti0_pred": pred.count,
        "betti0_gold": gold.count,
        "betti0_error": abs(pred.count - gold.count),
    }
    if any(_voxels_of(box) > most for mask in (pred, gold) for _, box in _boxed(mask)):
        _LOG.warning(
            "left out: %s; a piece of the mask lies in a box of more than %d voxels, too large to look at whole",
            ", ".join(NEED_THE_WHOLE),
            most,
        )
        return scores
    shape_pred, share_pred = _whole_pieces(pred, gold, workers)
    shape_gold, share_gold = _whole_pieces(gold, pred, workers)
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


def _boxed(mask: Pieces) -> Iterator[tuple[NDArray[np.int64], Box]]:
    return ((voxels, box_around(mask.points(voxels))) for voxels in mask.each())


def _voxels_of(box: Box) -> int:
    return math.prod(box_shape(box))


def _whole_pieces(mask: Pieces, other: Pieces, workers: Workers | None) -> tuple[Betti, float]:
    """Return the Betti numbers of a mask, the sums of its pieces', and the share of its skeleton in another mask."""
    if not mask.count:
        return Betti(0, 0, 0), float(not other.count)
    numbers, length, inside = np.zeros(3, np.int64), 0, 0
    groups = grouped(_boxed(mask), lambda piece: _voxels_of(piece[1]), _GROUP)
    for more, lines in made(_shape_of, mask.shape, groups, workers):
        numbers += more
        length += len(lines)
        inside += int(np.count_nonzero(other.numbers_at(lines) >= 0))
    return Betti(*numbers.tolist()), inside / length


def _shape_of(
    shape: tuple[int, int, int], group: list[tuple[NDArray[np.int64], Box]]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the sums of pieces' Betti numbers, and the voxels of their skeletons."""
    numbers, lines = np.zeros(3, np.int64), []
    for voxels, box in group:
        corner = np.array([own.start for own in box])
        solid = np.zeros(box_shape(box), bool)
        solid[tuple((points_of(voxels, shape) - corner).T)] = True
        numbers += betti(padded(solid), 1)
        lines.append(flat_of(np.argwhere(skeleton(solid, solid.astype(np.int32))) + corner, shape))
    return numbers, np.concatenate(lines)
