"""From trained students and a volume in memory to a probability volume. It knows nothing of gold."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from distill3d.config.schema import Experiment
from distill3d.training.background import Background
from distill3d.training.blocks import Way, run_block
from distill3d.training.module import DistillModule
from distill3d.training.windows import Grid, plan
from distill3d.volumes.intensity import rescale, sampled_range
from distill3d.volumes.lazy import Blocks
from distill3d.volumes.sample import sample


def predict_prob(
    module: DistillModule,
    image: NDArray[np.floating],
    *,
    on_window: Callable[[int], None] | None = None,
) -> NDArray[np.float32]:
    """Predict a whole volume by overlapping windows, blended with Gaussian weights.

    Windows, weights and result are those of MONAI's `sliding_window_inference`, but for windows of background, which
    are not run where the experiment says so: see `Background`.

    Memory: the volume and its result in float32, a few weight maps of a window, and what the network needs.

    Args:
        module: the trained module; used on the device it is on.
        image: [Z, Y, X] intensities in [0, 1], as `scale_intensity` makes them.
        on_window: called with the number of windows after each forward, and of those that need none.

    Returns:
        [Z, Y, X] probability in [0, 1].

    Raises:
        NumbersError: the network predicts what is no number; names the window.
    """
    return _predict(image, [Way(module=module, background=_background(module, image))], on_window)


def window_count(shape_zyx: tuple[int, ...], size_zyx: tuple[int, int, int], overlap: float) -> int:
    """Number of windows `predict_prob` needs, for a progress bar."""
    return Grid(size_zyx, overlap).count(shape_zyx)


def mean_prob(
    modules: Sequence[DistillModule],
    data: NDArray[np.number],
    *,
    flips: bool = False,
    on_window: Callable[[int], None] | None = None,
) -> NDArray[np.float32]:
    """Return the mean of what networks predict, each of intensities scaled as it was trained on.

    Args:
        modules: one or more.
        data: [Z, Y, X] intensities as stored.
        flips: of every network, take the mean over the eight flips of the stack.
        on_window: as for `predict_prob`.

    Returns:
        [Z, Y, X] probability in [0, 1].
    """
    return _predict(data, ways_of(modules, data, flips=flips), on_window)


def ways_of(modules: Sequence[DistillModule], data: Blocks, *, flips: bool = False) -> list[Way]:
    """Return how networks look at a volume, of which no more than a sample is read if it is large."""
    axes = [axes for n in range(4 if flips else 1) for axes in itertools.combinations(range(3), n)]
    ways: list[Way] = []
    for module in modules:
        limits = sampled_range(data, *module.experiment.patches.percentiles)
        background = _background(module, data, limits)
        ways += [Way(module=module, limits=limits, flip=flip, background=background) for flip in axes]
    return ways


def _background(module: DistillModule, data: Blocks, limits: tuple[float, float] | None = None) -> Background | None:
    if not module.experiment.inference.skip_background:
        return None
    parts = sample(data, _PARTS)
    return Background.of(parts.astype(np.float32, copy=False) if limits is None else rescale(parts, *limits))


_PARTS = 64  # of a volume, from which its background is known


def _predict(
    data: NDArray[np.number], ways: Sequence[Way], on_window: Callable[[int], None] | None
) -> NDArray[np.float32]:
    """Run all windows as one block."""
    (block,) = plan(data.shape, [way.grid for way in ways], data.shape)
    for way in ways:
        way.module.eval()
    return run_block(data, block, ways, on_window=on_window)


def total_windows(modules: Sequence[DistillModule], shape_zyx: tuple[int, ...], *, flips: bool = False) -> int:
    """Number of windows `mean_prob` needs."""
    each = (module.experiment for module in modules)
    return (8 if flips else 1) * sum(window_count(shape_zyx, e.patches.size_zyx, e.inference.overlap) for e in each)


def inference_device(experiment: Experiment) -> torch.device:
    """A GPU where there is one and the experiment allows it."""
    gpu = torch.cuda.is_available() and experiment.trainer.accelerator != "cpu"
    return torch.device("cuda" if gpu else "cpu")
