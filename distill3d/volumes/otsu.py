"""Foreground of an image by Otsu's global threshold, which needs no training."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from skimage.filters import threshold_otsu

from distill3d.volumes.lazy import Blocks
from distill3d.volumes.parts import extremes, parts_of

_BINS = 256  # of numbers with a decimal point, scikit-image's
_WHOLE = np.iinfo(np.uint16).max  # up to which whole numbers are counted each


def above_otsu(image: NDArray[np.number]) -> NDArray[np.bool_]:
    """Mark the voxels above Otsu's threshold.

    Source: Otsu 1979, "A threshold selection method from gray-level histograms", as in scikit-image.

    Args:
        image: [Z, Y, X] intensities as they were recorded; scaling clips the brightest voxels.

    Returns:
        [Z, Y, X]; nothing of a constant volume.

    >>> above_otsu(np.array([[[1, 2, 9, 8, 1]]], np.uint8)).astype(int).tolist()
    [[[0, 0, 1, 1, 0]]]
    """
    image = np.asarray(image)
    precise = image.dtype.kind == "f" and _needs_double(float(image.min()), float(image.max()))
    return np.asarray(image > threshold_otsu(image.astype(np.float64) if precise else image))


def otsu_threshold(image: Blocks) -> float:
    """Return the threshold of `above_otsu` for an image that is read by part: the histogram is that of all voxels.

    >>> otsu_threshold(np.array([[[1, 2, 9, 8, 1]]], np.uint8))
    2.0
    """
    low, high = extremes(image)
    if low == high:
        return low
    whole = image.dtype.kind in "bui" and low >= 0 and high <= _WHOLE
    counts: NDArray[np.integer] = np.zeros(int(high - low) + 1 if whole else _BINS, np.int64)
    # In single precision, as of the whole image
    kind = np.float64 if not whole and _needs_double(low, high) else np.float32
    edges, ends = np.empty(0), np.array([low, high], kind)
    for part in parts_of(image):
        if whole:
            counts += np.bincount(part.ravel().astype(np.intp) - int(low), minlength=len(counts))
        else:
            added, edges = np.histogram(part.astype(kind), _BINS, (ends[0], ends[1]))
            counts += added
    centers = np.arange(int(low), int(high) + 1) if whole else (edges[:-1] + edges[1:]) / 2
    return float(threshold_otsu(hist=(counts, centers)))


def _needs_double(low: float, high: float) -> bool:
    """Whether single precision has fewer numbers in a range than there are bins.

    >>> _needs_double(1.0, 2.0), _needs_double(1.0, 1.000001), _needs_double(1.0, 1.0)
    (False, True, False)
    """
    try:
        np.histogram_bin_edges(np.array([low, high], np.float32), _BINS)
    except ValueError:
        return True
    return False
