"""Foreground of an image by Otsu's global threshold, which needs no training."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from skimage.filters import threshold_otsu


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
    return np.asarray(image > threshold_otsu(np.asarray(image)))
