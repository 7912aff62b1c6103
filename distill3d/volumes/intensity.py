"""Scale the intensities of a volume to [0, 1]; knows no settings."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from distill3d.volumes.lazy import Blocks
from distill3d.volumes.sample import sample

WHOLE = 1 << 28  # voxels of a volume that is looked at as a whole
_PARTS = 2048  # of a larger one


def intensity_range(data: NDArray[np.number], low_percentile: float, high_percentile: float) -> tuple[float, float]:
    """Return the intensities that become 0 and 1: two percentiles, 0 to 100, of the whole volume.

    Where a volume is so black that both percentiles are equal, its maximum is the upper limit; a constant volume has
    equal limits.
    """
    low, high = (float(v) for v in np.percentile(data, (low_percentile, high_percentile)))
    return low, high if high > low else float(data.max())


def sampled_range(data: Blocks, low_percentile: float, high_percentile: float) -> tuple[float, float]:
    """Return the same of a volume that may be on disk: of all its voxels, or of a sample if they are too many.

    The sample, parts all over the volume, is the same whenever it is taken.
    """
    whole = math.prod(data.shape) <= WHOLE
    known = np.asarray(data[:, :, :]) if whole else sample(data, _PARTS)
    return intensity_range(known, low_percentile, high_percentile)


def rescale(data: NDArray[np.number], low: float, high: float) -> NDArray[np.float32]:
    """Map ``low`` to 0 and ``high`` to 1 and clip to [0, 1]; all 0 if both are equal.

    Clipping is why the default upper percentile is as high as 99.99: a sparse neuron fills about 0.01 to 0.1 % of its
    volume, and at 99.9 its own intensities would be cut off (OP_3: best Dice of any threshold 0.25 instead of 0.35).

    Example:
        >>> rescale(np.array([0, 10, 15, 20, 99], np.uint8), 10.0, 20.0).tolist()
        [0.0, 0.0, 0.5, 1.0, 1.0]
    """
    scaled = data.astype(np.float32)
    scaled -= np.float32(low)
    # a range that only double precision knows is none: its reciprocal is infinite, and 0 times infinity no number
    scaled *= np.float32(1 / (high - low) if high - low > np.finfo(np.float32).tiny else 0)
    return np.clip(scaled, 0, 1, out=scaled)


def scale_intensity(data: NDArray[np.number], low_percentile: float, high_percentile: float) -> NDArray[np.float32]:
    """Scale a whole volume as training does: `intensity_range`, then `rescale`.

    Args:
        data: [Z, Y, X], any number type.
        low_percentile: percentile of the intensity that becomes 0.
        high_percentile: percentile of the intensity that becomes 1.

    Returns:
        [Z, Y, X] float32 in [0, 1].
    """
    return rescale(data, *intensity_range(data, low_percentile, high_percentile))
