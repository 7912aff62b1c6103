"""Compare how two voxel masks of one neuron hang together: skeletons, holes, breaks and spurious parts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple, final

import numpy as np
from skimage.measure import euler_number

from distill3d.errors import InputError
from distill3d.evaluation.metrics.masks import box_of, harmonic_mean, known_pair
from distill3d.evaluation.metrics.surface import ball, padded, steps_to, surface_voxels
from distill3d.evaluation.metrics.voxel import DEFAULT_TOLERANCE_VOX
from distill3d.volumes.components import label_components
from distill3d.volumes.thinning import skeleton

MAX_TOLERANCE_VOX = 16.0  # the moves that are tried grow with its cube; neurites are a few voxels wide


class Components(NamedTuple):
    """Parts of a mask that do not touch.

    Attributes:
        labels: int32 [Z, Y, X], from 1, 0 elsewhere.
        number: how many there are.
    """

    labels: np.ndarray
    number: int


class Betti(NamedTuple):
    """Betti numbers of a mask, all at least 0.

    Attributes:
        components: Betti-0, parts that do not touch.
        tunnels: Betti-1, loops that no filling of the mask closes.
        cavities: Betti-2, pieces of background that are shut in.
    """

    components: int
    tunnels: int
    cavities: int

    @property
    def euler(self) -> int:
        """Euler characteristic."""
        return self.components - self.tunnels + self.cavities


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class TopologyScores:
    """Scores of one case. No value is ever nan.

    Foreground voxels hang together by faces, edges and corners (26 neighbors), background voxels by faces (6); beyond
    the volume, and where nobody labelled, is background. Both masks empty: the first three are 1, counts 0. Exactly one
    empty (``missed``): the three are 0, the counts are what the definitions say. Counts have no worst value, so a model
    that predicts nothing may have fewer errors than one that predicts crumbs: read them beside ``missed``.

    Attributes:
        cldice: harmonic mean of the next two, in [0, 1].
        cl_precision: share of the predicted skeleton inside gold.
        cl_recall: share of the gold skeleton inside the prediction.
        betti0_pred, betti0_gold, betti0_error: number of components, and the absolute difference.
        betti1_pred, betti1_gold, betti1_error: number of tunnels, and the absolute difference.
        euler_pred, euler_gold, euler_error: Euler characteristic, and the absolute difference.
        n_breaks: sum over gold components of (predicted components that hit it) - 1. One that nothing hits is 1 break.
            To hit is to have a voxel at most the tolerance away.
        n_spurious: predicted components that hit no gold.
        missed: exactly one of the masks is empty.
    """

    cldice: float
    cl_precision: float
    cl_recall: float
    betti0_pred: int
    betti0_gold: int
    betti0_error: int
    betti1_pred: int
    betti1_gold: int
    betti1_error: int
    euler_pred: int
    euler_gold: int
    euler_error: int
    n_breaks: int
    n_spurious: int
    missed: bool


def topology_scores(
    *,
    pred: np.ndarray,
    gold: np.ndarray,
    known: np.ndarray | None = None,
    tolerance_vox: float = DEFAULT_TOLERANCE_VOX,
) -> TopologyScores:
    """Score how a predicted mask hangs together against the gold one.

    Source: Shit et al. 2021, "clDice - a novel topology-preserving loss function for tubular structure segmentation",
    equations 1 and 2, with hard skeletons (Lee et al. 1994, as in scikit-image).

    Args:
        pred: bool [Z, Y, X].
        gold: bool [Z, Y, X].
        known: bool [Z, Y, X], False where nobody labelled: such voxels are taken out of both masks.
        tolerance_vox: for breaks and spurious parts, Euclidean in voxels, ends included, in [0, 16].

    Raises:
        InputError: the shapes differ, a mask is not bool, or the tolerance is out of range.

    >>> gold = np.zeros((3, 3, 20), bool); gold[1, 1, 2:18] = True
    >>> pred = gold.copy(); pred[1, 1, 8:12] = False
    >>> scores = topology_scores(pred=pred, gold=gold)
    >>> scores.cl_precision, scores.cl_recall, scores.betti0_error, scores.n_breaks
    (1.0, 0.75, 1, 1)
    """
    pred, gold = known_pair(pred=pred, gold=gold, known=known, tolerance_vox=tolerance_vox)
    if tolerance_vox > MAX_TOLERANCE_VOX:
        raise InputError(f"tolerance_vox: {tolerance_vox} found; 0 to {MAX_TOLERANCE_VOX} is accepted")
    either = pred | gold
    box = box_of(either) if either.any() else (slice(1),) * 3
    pred, gold = pred[box], gold[box]
    margin = int(np.ceil(tolerance_vox))
    pred, gold = padded(pred, margin), padded(gold, margin)
    parts_pred, parts_gold = Components(*label_components(pred)), Components(*label_components(gold))
    of_pred, of_gold = betti(pred, parts_pred.number), betti(gold, parts_gold.number)
    hits = hits_of(pred, parts_pred, parts_gold, tolerance_vox)
    pieces = np.bincount(hits[:, 1], minlength=parts_gold.number + 1)[1:]
    missed = (parts_pred.number == 0) != (parts_gold.number == 0)
    cl_precision = _skeleton_share(pred, parts_pred, gold, of_nothing=float(not missed))
    cl_recall = _skeleton_share(gold, parts_gold, pred, of_nothing=float(not missed))
    return TopologyScores(
        cldice=harmonic_mean(cl_precision, cl_recall),
        cl_precision=cl_precision,
        cl_recall=cl_recall,
        betti0_pred=of_pred.components,
        betti0_gold=of_gold.components,
        betti0_error=abs(of_pred.components - of_gold.components),
        betti1_pred=of_pred.tunnels,
        betti1_gold=of_gold.tunnels,
        betti1_error=abs(of_pred.tunnels - of_gold.tunnels),
        euler_pred=of_pred.euler,
        euler_gold=of_gold.euler,
        euler_error=abs(of_pred.euler - of_gold.euler),
        n_breaks=int(np.abs(pieces - 1).sum()),
        n_spurious=parts_pred.number - len(np.unique(hits[:, 0])),
        missed=missed,
    )


def betti(solid: np.ndarray, components: int) -> Betti:
    """Complete the Betti numbers of a padded mask whose components are counted."""
    # The margin makes what is around the mask one piece of background, which is no cavity.
    cavities = label_components(~solid, neighbors=6)[1] - 1
    euler = int(euler_number(solid, connectivity=3))
    return Betti(components, components + cavities - euler, cavities)  # Euler = components - tunnels + cavities


def _skeleton_share(mask: np.ndarray, parts: Components, other: np.ndarray, *, of_nothing: float) -> float:
    """Return the share of a mask's skeleton inside the other mask."""
    if not parts.number:
        return of_nothing
    lines = skeleton(mask, parts.labels)
    return float(np.count_nonzero(lines & other) / np.count_nonzero(lines))


def hits_of(pred: np.ndarray, parts_pred: Components, parts_gold: Components, tolerance_vox: float) -> np.ndarray:
    """Return the pairs (predicted, gold) of components at most the tolerance apart, int64 [H, 2].

    Where components overlap their labels meet in a voxel. Else the two nearest voxels are apart, and on the way between
    them every step leads nearer: the last voxel before leaving the predicted component is one of its surface. So only
    surface voxels have to look around.
    """
    of_pred, of_gold, base = parts_pred.labels.ravel(), parts_gold.labels.ravel(), parts_gold.number + 1
    moves, _ = ball(tolerance_vox + 1e-9, (1.0, 1.0, 1.0), int(np.ceil(tolerance_vox)))
    solid, surface = np.flatnonzero(pred), surface_voxels(pred)
    looks = [(solid, 0), *((surface, step) for step in steps_to(moves, pred.shape).tolist())]
    codes = []
    for voxels, step in looks:
        neighbors = of_gold[voxels + step]
        codes.append(np.unique(of_pred[voxels[neighbors > 0]].astype(np.int64) * base + neighbors[neighbors > 0]))
    return np.stack(np.divmod(np.unique(np.concatenate(codes)), base), axis=1)
