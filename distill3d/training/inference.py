"""From a trained student and a volume to a probability volume, window by window. It knows nothing of gold."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from distill3d.storage.run_folder import RunFolder
from distill3d.training.module import DistillModule, load_module
from distill3d.volumes.intensity import scale_intensity
from distill3d.volumes.prob import write_prob
from distill3d.volumes.volume import read_volume


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
    """
    from monai.inferers.utils import sliding_window_inference  # noqa: PLC0415 - seconds of import

    settings, size = module.experiment.inference, module.experiment.patches.size_zyx
    device = module.device

    def forward(windows: Tensor) -> Tensor:
        with torch.autocast(device.type, dtype=torch.bfloat16, enabled=device.type == "cuda"):
            logits = module(windows.to(device))
        if on_window is not None:
            on_window(len(windows))
        return logits.float().sigmoid().cpu()

    inputs = torch.from_numpy(np.asarray(image, dtype=np.float32))[None, None]
    module.eval()
    with torch.inference_mode():
        prob = sliding_window_inference(
            inputs, size, settings.batch_size, forward, overlap=settings.overlap, mode="gaussian"
        )
    if not isinstance(prob, Tensor):
        raise TypeError(f"the sliding window returned {type(prob).__name__}")
    return prob[0, 0].numpy()


def window_count(shape_zyx: tuple[int, ...], size_zyx: tuple[int, int, int], overlap: float) -> int:
    """Number of windows `predict_prob` needs, for a progress bar.

    Example:
        >>> window_count((60, 512, 512), (32, 96, 96), 0.25)
        147
    """
    return math.prod(
        1 if n <= size else math.ceil((n - size) / int(size * (1 - overlap))) + 1
        for n, size in zip(shape_zyx, size_zyx, strict=True)
    )


def predict(
    run: Path | str,
    volume: Path | str,
    *,
    out: Path | str = "prob",
    spacing_um: tuple[float, float, float] | None = None,
) -> Path:
    """Segment a volume on disk with the best checkpoint of a run.

    Args:
        run: a run's folder.
        volume: its file.
        out: folder to write to.
        spacing_um: voxel size (ZYX) of a volume whose file has none.

    Returns:
        The file written: ``<out>/<stem>_prob.tif``, uint8, 255 for a probability of 1.

    Raises:
        InputError: the run, its checkpoint or the volume cannot be used.
    """
    source = Path(volume)
    module = load_module(RunFolder(Path(run)).best)
    module.to(inference_device(module))
    image = read_volume(source, spacing_um=spacing_um)
    prob = predict_prob(module, scale_intensity(image.data, *module.experiment.patches.percentiles))
    target = Path(out) / f"{source.name.split('.')[0]}_prob.tif"
    write_prob(target, prob, image.spacing_um)
    return target


def inference_device(module: DistillModule) -> torch.device:
    """A GPU where there is one and the experiment allows it."""
    gpu = torch.cuda.is_available() and module.experiment.trainer.accelerator != "cpu"
    return torch.device("cuda" if gpu else "cpu")
