"""What the values of a stack mean: a mask, labels, a probability, or something else; and the mask that they make."""

from __future__ import annotations

import functools
import itertools
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Literal, overload

import numpy as np
from numpy.typing import NDArray

from distill3d.errors import InputError
from distill3d.volumes.lazy import Blocks
from distill3d.volumes.parts import computed, extremes, parts_of
from distill3d.volumes.prob import says_prob

_LOG = logging.getLogger(__name__)
FEW = 16  # more values than these are no labels
HALF = 0.5
ROUNDING = 1e-6  # of float32 means and interpolations, beyond 0 and 1

Rule = Callable[[NDArray[np.number]], NDArray[np.bool_]]
Meaning = Literal["prob", "mask", "labels", "many"]


def few_values(data: Blocks) -> NDArray[np.number] | None:
    """Return the values of a volume, ascending; None where they are more than `FEW`.

    >>> few_values(np.array([[[3, 0, 3]]], np.uint8)).tolist(), few_values(np.arange(20).reshape(1, 4, 5))
    ([0, 3], None)
    """
    values = np.empty(0, data.dtype)
    for plane in itertools.chain.from_iterable(parts_of(data)):
        if np.logical_or.reduce([plane == value for value in values], axis=0).all():
            continue  # nothing new, found without sorting
        values = np.union1d(values, plane)
        if len(values) > FEW:
            return None
    return values


def meaning_of(path: Path, data: Blocks) -> Meaning:
    """Return what a file says it holds, or else what its values can be.

    Args:
        path: a header may say that it holds a probability.
        data: [Z, Y, X] as stored. Two values, one of them 0, or a single one are a mask; up to `FEW` whole numbers are
            labels.
    """
    if says_prob(path):
        return "prob"
    values = few_values(data)
    if values is None:
        return "many"
    if len(values) == 1 or (len(values) == 2 and not values[0]):
        return "mask"
    return "labels" if (values == np.rint(values)).all() else "many"


@overload
def neuron_mask(
    path: Path, data: NDArray[np.number], threshold: float | None = None, *, gold: bool = False
) -> NDArray[np.bool_]: ...
@overload
def neuron_mask(path: Path, data: Blocks, threshold: float | None = None, *, gold: bool = False) -> Blocks: ...
def neuron_mask(
    path: Path, data: NDArray[np.number] | Blocks, threshold: float | None = None, *, gold: bool = False
) -> NDArray[np.bool_] | Blocks:
    """Mark the voxels of a stack on disk that are neuron, and log how, unless it is a mask.

    A mask and labels: all but 0. Anything else: where the share of the type's full scale (1 of numbers with a decimal
    point) is at least the threshold, and not 0.

    Args:
        path: of the stack.
        data: [Z, Y, X] as stored.
        threshold: in [0, 1]; None takes 0.5, if the values reach it. Given, it holds for few values too.
        gold: few labels stay labels all the same; without a threshold whole numbers are labels, however many they are,
            but for a file that says it holds a probability.

    Returns:
        Bool [Z, Y, X]; of data that are read by part, what is read by part.

    Raises:
        InputError: the values are neither, or they do not reach half of the full scale and nobody chose a threshold.
    """
    rule = _neuron_rule(path, data, threshold, gold=gold)
    return computed(rule, data)


def _neuron_rule(path: Path, data: Blocks, threshold: float | None, *, gold: bool) -> Rule:
    meaning = meaning_of(path, data)
    if meaning == "mask":
        return _not_zero
    if meaning == "labels" and (gold or threshold is None):
        values = few_values(data)
        labels = " ".join(f"{value:g}" for value in (() if values is None else values))
        _require_background(path, data)
        _LOG.warning("%s: the values %s are taken for labels: all but 0 is neuron", path, labels)
        return _not_zero
    if meaning == "many" and gold and threshold is None and _are_whole(data):
        _require_background(path, data)
        _LOG.warning("%s: many whole numbers are taken for labels: all but 0 is neuron", path)
        return _not_zero
    (low, high), full = extremes(data), _full_scale(data)
    lost = meaning == "many" and threshold is None and high < HALF * full
    if not -ROUNDING <= low <= high <= full + ROUNDING or lost:
        raise InputError(
            f"{path}: many values from {low:.7g} to {high:.7g} of type {data.dtype}; accepted: a mask of two values, "
            f"{'whole numbers, ' if gold else ''}or a probability of which {full:g} is 1, with --threshold where it "
            "never reaches one half (0: all but 0)"
        )
    least = HALF if threshold is None else threshold
    _LOG.warning("%s: taken for a probability: from %g of %g on a voxel is neuron (--threshold)", path, least, full)
    least = max(least, float(np.finfo(np.float32).tiny))
    return functools.partial(_at_least, least, np.float32(full))


def _require_background(path: Path, data: Blocks) -> None:
    """Refuse labels of which none is 0, as ilastik's are: all of the volume would be neuron."""
    if (lowest := extremes(data)[0]) > 0:
        raise InputError(
            f"{path}: labels from {lowest:g} on, and no voxel is 0, so all would be neuron; accepted: 0 for what is no "
            "neuron, or data.labels=[2], say, in an experiment"
        )


def _are_whole(data: Blocks) -> bool:
    return data.dtype.kind in "ui" or all((part == np.rint(part)).all() for part in parts_of(data))


def _not_zero(part: NDArray[np.number]) -> NDArray[np.bool_]:
    return part != 0


def _at_least(least: float, full: np.float32, part: NDArray[np.number]) -> NDArray[np.bool_]:
    return part.astype(np.float32) / full >= least


def _full_scale(data: Blocks) -> float:
    return 1.0 if data.dtype.kind == "f" else float(np.iinfo(data.dtype.name).max)
