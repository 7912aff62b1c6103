"""From a trained student and a volume to a probability volume, window by window. It knows nothing of gold."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from distill3d.errors import NumbersError
from distill3d.training.module import DistillModule
from distill3d.volumes.intensity import scale_intensity


def predict_prob(
    module: DistillModule,
    image: NDArray[np.floating],
    *,
    on_window: Callable[[int], None] | None = None,
) -> NDArray[np.float32]:
    """Predict a whole volume by overlapping windows, blended with Gaussian weights.

    Memory: the volume, its result and one weight map in float32, whatever the network needs.

    Args:
        module: the trained module; used on the device it is on.
        image: [Z, Y, X] intensities in [0, 1], as `scale_intensity` makes them.
        on_window: called with the number of windows after each forward.

    Returns:
        [Z, Y, X] probability in [0, 1].

    Raises:
        NumbersError: the network predicts what is no number; names the window.
    """
    from monai.inferers.utils import sliding_window_inference  # noqa: PLC0415 - seconds of import

    settings, size = module.experiment.inference, module.experiment.patches.size_zyx
    device = module.device

    def forward(windows: Tensor, slices: Sequence[Sequence[slice]]) -> Tensor:
        with torch.autocast(device.type, dtype=torch.bfloat16, enabled=device.type == "cuda"):
            logits = module(windows.to(device)).float()
        if not logits.isfinite().all():
            raise NumbersError(_not_finite(logits, slices, image.shape, size))
        if on_window is not None:
            on_window(len(windows))
        return logits.sigmoid().cpu()

    inputs = torch.from_numpy(np.ascontiguousarray(image, dtype=np.float32))[None, None]
    module.eval()
    with torch.inference_mode():
        prob = sliding_window_inference(
            inputs, size, settings.batch_size, forward, overlap=settings.overlap, mode="gaussian", with_coord=True
        )
    if not isinstance(prob, Tensor):
        raise TypeError(f"the sliding window returned {type(prob).__name__}")
    return prob[0, 0].numpy()


def _not_finite(
    logits: Tensor, slices: Sequence[Sequence[slice]], shape_zyx: Sequence[int], size_zyx: Sequence[int]
) -> str:
    """Say in which window a network predicts what is no number; ``slices`` are of the volume padded to a window."""
    first = int((~logits.isfinite()).flatten(1).any(1).nonzero()[0])
    margins = [max(size - full, 0) // 2 for size, full in zip(size_zyx, shape_zyx, strict=True)]
    window = [(max(s.start - m, 0), s.stop - m) for s, m in zip(slices[first][2:], margins, strict=True)]
    place = ", ".join(f"{low}:{min(high, full)}" for (low, high), full in zip(window, shape_zyx, strict=True))
    count = int((~logits[first].isfinite()).sum())
    return (
        f"the network predicts NaN or infinity at zyx {place} ({count} of {logits[first].numel()} voxels), so its "
        "weights cannot be used; accepted: a run whose training stayed finite"
    )


def window_count(shape_zyx: tuple[int, ...], size_zyx: tuple[int, int, int], overlap: float) -> int:
    """Number of windows `predict_prob` needs, for a progress bar.

    Example:
        >>> window_count((60, 512, 512), (32, 96, 96), 0.25)
        147
    """
    return math.prod(
        1 if n <= size else math.ceil((n - size) / max(1, int(size * (1 - overlap)))) + 1
        for n, size in zip(shape_zyx, size_zyx, strict=True)
    )


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
    ways = [axes for n in range(4 if flips else 1) for axes in itertools.combinations(range(3), n)]
    total = np.zeros(data.shape, np.float32)
    for module in modules:
        image = scale_intensity(data, *module.experiment.patches.percentiles)
        for axes in ways:
            total += np.flip(predict_prob(module, np.flip(image, axes), on_window=on_window), axes)
    return total / np.float32(len(modules) * len(ways))


def total_windows(modules: Sequence[DistillModule], shape_zyx: tuple[int, ...], *, flips: bool = False) -> int:
    """Number of windows `mean_prob` needs."""
    each = (module.experiment for module in modules)
    return (8 if flips else 1) * sum(window_count(shape_zyx, e.patches.size_zyx, e.inference.overlap) for e in each)


def inference_device(module: DistillModule) -> torch.device:
    """A GPU where there is one and the experiment allows it."""
    gpu = torch.cuda.is_available() and module.experiment.trainer.accelerator != "cpu"
    return torch.device("cuda" if gpu else "cpu")
