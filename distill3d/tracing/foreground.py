"""From stored values to a probability, and to a mask of the voxels that are neuron."""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray

from distill3d.config.schema import PatchConfig
from distill3d.config.trace import TraceConfig
from distill3d.errors import InputError
from distill3d.volumes.components import drop_small, label_components
from distill3d.volumes.intensity import scale_intensity
from distill3d.volumes.meaning import ROUNDING
from distill3d.volumes.otsu import above_otsu


def as_prob(
    data: NDArray[np.number], config: TraceConfig, percentiles: tuple[float, float] | None = None
) -> NDArray[np.float32]:
    """Return values in [0, 1] that say how likely a voxel is neuron.

    Args:
        data: [Z, Y, X] as stored.
        config: its ``input`` says what the values mean; ``auto`` is a probability.
        percentiles: of an image's intensities that become 0 and 1; None takes the defaults of training.

    Raises:
        InputError: they cannot be probabilities.
    """
    if data.dtype.kind == "f" and not np.isfinite(data).all():
        raise InputError("values that are NaN or infinite; accepted: finite numbers")
    if config.input == "image":
        return scale_intensity(data, *(percentiles or PatchConfig().percentiles))
    if config.input == "mask":
        return (data != 0).astype(np.float32)
    if data.dtype == np.uint8:
        return data.astype(np.float32) / np.float32(255)
    low, high = (float(data.min()), float(data.max()))
    if data.dtype.kind != "f" or low < -ROUNDING or high > 1 + ROUNDING:
        raise InputError(
            f"values of type {data.dtype} from {low:.7g} to {high:.7g} are no probabilities; accepted: uint8 (255 is "
            "1), or numbers from 0 to 1 with a decimal point; input=image or input=mask takes others"
        )
    prob = data.astype(np.float32, copy=False)
    return prob if low >= 0 and high <= 1 else prob.clip(0, 1)


def find_foreground(data: NDArray[np.number], prob: NDArray[np.float32], config: TraceConfig) -> NDArray[np.bool_]:
    """Mark the voxels that are neuron: threshold, then drop small pieces.

    Args:
        data: [Z, Y, X] as stored; Otsu's threshold is found on it, because scaling clips the brightest voxels.
        prob: the same as probability.
        config: method, thresholds and ``min_voxels``.

    Returns:
        Bool mask [Z, Y, X]; of a constant volume Otsu marks nothing.
    """
    method = method_of(config)
    if method == "otsu":
        return drop_small(above_otsu(data), config.min_voxels)
    mask = prob >= np.float32(config.threshold)
    if method == "hysteresis":
        mask = grow_to(mask, prob >= np.float32(config.low_threshold))
    return drop_small(mask, config.min_voxels)


def method_of(config: TraceConfig) -> Literal["fixed", "otsu", "hysteresis"]:
    """Return the method of finding foreground; ``auto`` goes by the input."""
    if config.method == "auto":
        return "otsu" if config.input == "image" else "fixed"
    return config.method


def grow_to(sure: NDArray[np.bool_], possible: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Keep the pieces of ``possible`` (26-connected) that hold a ``sure`` voxel; both bool [Z, Y, X].

    >>> possible = np.array([[[1, 1, 0, 1, 1]]], bool)
    >>> grow_to(np.array([[[0, 1, 0, 0, 0]]], bool), possible)[0, 0].astype(int).tolist()
    [1, 1, 0, 0, 0]
    """
    labels, count = label_components(possible)
    keep = np.zeros(count + 1, bool)
    keep[labels[sure & possible]] = True
    return keep[labels]
