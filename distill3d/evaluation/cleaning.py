"""How small a piece of a mask must be to be dropped before its clean scores: chosen on validation cases."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from distill3d.volumes.components import label_components

SIZES = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000)  # voxels; 1 drops nothing


class Segmented(NamedTuple):
    """A case as it was segmented: the mask, gold and where somebody labelled, bool [Z, Y, X]."""

    pred: NDArray[np.bool_]
    gold: NDArray[np.bool_]
    known: NDArray[np.bool_]


def choose_min_voxels(cases: Iterable[Segmented], default: int) -> int:
    """Return the size below which pieces (26-connected) are dropped for the best mean Dice.

    Source: Isensee et al. 2021, nnU-Net, which also lets validation Dice decide whether small parts are removed.

    Args:
        cases: one or more.
        default: tried first, so it stays where no other is better.
    """
    sizes = (default, *SIZES)
    dice = np.mean([_dice(case, sizes) for case in cases], axis=0)
    return sizes[int(np.argmax(dice))]


def _dice(case: Segmented, sizes: tuple[int, ...]) -> NDArray[np.float64]:
    """Return Dice without the pieces below every size; 1 where neither mask has a voxel."""
    labels, count = label_components(case.pred)
    gold = case.gold & case.known
    voxels = _per_piece(labels, count)
    of_pred, of_both = _per_piece(labels[case.known], count), _per_piece(labels[gold], count)
    kept = voxels >= np.array(sizes)[:, None]
    total = kept @ of_pred + np.count_nonzero(gold)
    return np.where(total > 0, 2 * (kept @ of_both) / np.maximum(total, 1), 1.0)


def _per_piece(labels: NDArray[np.int32], count: int) -> NDArray[np.int64]:
    return np.bincount(labels.ravel(), minlength=count + 1)[1:]
