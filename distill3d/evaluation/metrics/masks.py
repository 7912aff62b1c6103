"""What a pair of voxel masks must be before any metric reads it, and the box worth looking at."""

from __future__ import annotations

import numpy as np

from distill3d.errors import InputError


def known_pair(
    *, pred: np.ndarray, gold: np.ndarray, known: np.ndarray | None, **tolerances: float | None
) -> tuple[np.ndarray, np.ndarray]:
    """Return both masks without the voxels nobody labelled.

    Args:
        pred: bool [Z, Y, X].
        gold: bool [Z, Y, X].
        known: bool [Z, Y, X], False where nobody labelled.
        **tolerances: name -> distance, at least 0; None where none was asked for.

    Raises:
        InputError: the shapes differ, a mask is not bool, or a tolerance is below 0.

    >>> ones = np.ones((1, 1, 2), bool)
    >>> known_pair(pred=ones, gold=ones, known=~ones, tolerance_vox=0.0)[0].any()
    np.False_
    """
    masks = {"pred": pred, "gold": gold} | ({} if known is None else {"known": known})
    shapes = ", ".join(f"{name} {mask.dtype} {mask.shape}" for name, mask in masks.items())
    if any(mask.dtype != bool or mask.shape != pred.shape or mask.ndim != 3 for mask in masks.values()):
        raise InputError(f"masks: {shapes}; bool masks of one shape [Z, Y, X] are accepted")
    for name, tolerance in tolerances.items():
        if tolerance is not None and not tolerance >= 0:
            raise InputError(f"{name}: {tolerance} found; a number >= 0 is accepted")
    return (pred, gold) if known is None else (pred & known, gold & known)


def box_of(mask: np.ndarray) -> tuple[slice, ...]:
    """Return the smallest box that holds every voxel of a mask that has one.

    >>> box_of(np.array([[[False, True, True, False]]]))[2]
    slice(1, 3, None)
    """
    lines = [np.asarray(mask.any(axis=tuple({0, 1, 2} - {axis}))) for axis in range(3)]
    return tuple(slice(int(line.argmax()), len(line) - int(line[::-1].argmax())) for line in lines)


def harmonic_mean(a: float, b: float) -> float:
    """Return the harmonic mean of two shares, 0 if both are 0.

    >>> harmonic_mean(1.0, 0.5), harmonic_mean(0.0, 0.0)
    (0.6666666666666666, 0.0)
    """
    return 2 * a * b / (a + b) if a + b else 0.0
