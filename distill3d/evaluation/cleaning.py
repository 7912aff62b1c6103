"""How small a piece of a mask must be to be dropped before its clean scores: chosen on validation cases."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from distill3d.volumes.components import label_components

SIZES = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000)  # voxels; 1 drops nothing


@dataclass(frozen=True, slots=True)
class Clean:
    """Which pieces of a method's masks the clean scores leave out.

    Attributes:
        min_voxels: smaller ones.
        chosen_on: the validation cases that decided; none where it is what the trace has.
    """

    min_voxels: int
    chosen_on: list[str] = field(default_factory=list)


class Segmented(NamedTuple):
    """A case as it was segmented: the mask, gold and where somebody labelled, bool [Z, Y, X]."""

    pred: NDArray[np.bool_]
    gold: NDArray[np.bool_]
    known: NDArray[np.bool_]


def choose_min_voxels(rows: Sequence[NDArray[np.float64]], default: int) -> int:
    """Return the size below which pieces (26-connected) are dropped for the best mean Dice.

    Source: Isensee et al. 2021, nnU-Net, which also lets validation Dice decide whether small parts are removed.

    Args:
        rows: of `dice_by_size`, one or more cases.
        default: as there; it stays where no other is better.
    """
    return (default, *SIZES)[int(np.argmax(np.mean(rows, axis=0)))]


def dice_by_size(case: Segmented, default: int) -> NDArray[np.float64]:
    """Return Dice without the pieces below the default and below each of `SIZES`; 1 where neither mask has a voxel."""
    labels, count = label_components(case.pred)
    gold = case.gold & case.known
    voxels = _per_piece(labels, count)
    of_pred, of_both = _per_piece(labels[case.known], count), _per_piece(labels[gold], count)
    kept = voxels >= np.array((default, *SIZES))[:, None]
    total = kept @ of_pred + np.count_nonzero(gold)
    return np.where(total > 0, 2 * (kept @ of_both) / np.maximum(total, 1), 1.0)


def _per_piece(labels: NDArray[np.int32], count: int) -> NDArray[np.int64]:
    return np.bincount(labels.ravel(), minlength=count + 1)[1:]
