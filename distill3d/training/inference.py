"""From a trained student and a volume to a probability volume, window by window. It knows nothing of gold."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from distill3d.config.registry import DATA
from distill3d.data.base import DataSource
from distill3d.errors import InputError, NumbersError
from distill3d.experiment import experiment_from_plain
from distill3d.storage.checkpoint import CHECKPOINT_KEY, read_checkpoint
from distill3d.storage.links import require_inside
from distill3d.storage.run_folder import RunFolder
from distill3d.training.module import DistillModule, load_module, trained_um
from distill3d.volumes.intensity import scale_intensity
from distill3d.volumes.origin import is_taken, origin_of
from distill3d.volumes.prob import write_prob
from distill3d.volumes.reading import Reading
from distill3d.volumes.volume import stem_of, volume_files


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

    inputs = torch.from_numpy(np.asarray(image, dtype=np.float32))[None, None]
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
        1 if n <= size else math.ceil((n - size) / int(size * (1 - overlap))) + 1
        for n, size in zip(shape_zyx, size_zyx, strict=True)
    )


def predict(
    run: Path | str,
    volume: Path | str,
    *,
    out: Path | str = "prob",
    spacing_um: tuple[float, float, float] | None = None,
    channel: int | None = None,
    overwrite: bool = False,
    allow_plugins: bool = False,
) -> Path:
    """Segment a volume on disk with the best checkpoint of a run: `predict_all` of one.

    Returns:
        The file written.
    """
    (written,) = predict_all(
        run,
        [volume],
        out=out,
        spacing_um=spacing_um,
        channel=channel,
        overwrite=overwrite,
        allow_plugins=allow_plugins,
    )
    return written


def predict_all(
    run: Path | str,
    volumes: Sequence[Path | str],
    *,
    out: Path | str = "prob",
    spacing_um: tuple[float, float, float] | None = None,
    channel: int | None = None,
    overwrite: bool = False,
    allow_plugins: bool = False,
) -> Iterator[Path]:
    """Segment volumes on disk with the best checkpoint of a run, as its own data were read.

    Args:
        run: a run's folder.
        volumes: their files.
        out: folder to write to. Only what came from the same volume, channel and checkpoint is replaced there.
        spacing_um: voxel size (ZYX) of all of them; None takes ``data.spacing_um`` of the run, or what files state.
        channel: of volumes that have several; None takes the run's.
        overwrite: replace whatever is there.
        allow_plugins: import the modules that the run names, though it lies outside of this project.

    Returns:
        The files as they are written: ``<out>/<stem>_prob.tif``, uint8, 255 for a probability of 1, voxels in the order
        of the volume's and, where its header says it, its place in space.

    Raises:
        InputError: the run, its checkpoint or a volume cannot be used; two volumes would give one file, or one is there
            that came from elsewhere, which is found before anything is predicted.
    """
    checkpoint, targets = RunFolder(Path(run)).best, _targets([Path(volume) for volume in volumes], Path(out))
    reading = run_reading(run, channel=channel, allow_plugins=allow_plugins)
    if not overwrite:
        _require_free(targets, checkpoint, reading)
    return _predicted(targets, checkpoint, reading, spacing_um)


def run_reading(run: Path | str, *, channel: int | None = None, allow_plugins: bool = False) -> Reading:
    """Return how the data of a run were read.

    Args:
        run: its folder.
        channel: another than the run's.
        allow_plugins: as for `predict_all`.

    Raises:
        InputError: it has no checkpoint.
        ConfigError: it would import modules, see ``allow_plugins``.
    """
    folder = RunFolder(Path(run))
    require_inside(folder.path)
    saved = read_checkpoint(folder.best)[CHECKPOINT_KEY]
    experiment = experiment_from_plain(saved["experiment"], source=folder.best, allow_plugins=allow_plugins)
    source: type[DataSource] = DATA[experiment.data.name].cls
    own = source.reading(experiment.data.config)
    return replace(
        own,
        channel=own.channel if channel is None else channel,
        percentiles=experiment.patches.percentiles,
        trained_um=trained_um(saved),
    )


def _targets(volumes: Sequence[Path], out: Path) -> dict[Path, Path]:
    """Output -> the volume it is made from."""
    targets: dict[Path, Path] = {}
    problems: list[str] = []
    for volume in volumes:
        target = out / f"{stem_of(volume)}_prob.tif"
        if target in targets:
            problems.append(
                f"{targets[target]} and {volume} would both become {target}; accepted: one of them, or two --out"
            )
        targets.setdefault(target, volume)
    if problems:
        raise InputError(*problems)
    return targets


def _require_free(targets: Mapping[Path, Path], checkpoint: Path, reading: Reading) -> None:
    problems = [
        f"{target}: is there and did not come from {volume} and {checkpoint}; accepted: --overwrite, or another --out"
        for target, volume in targets.items()
        if target.exists() and is_taken(target, _origin(volume, checkpoint, reading))
    ]
    if problems:
        raise InputError(*problems)


def _origin(volume: Path, checkpoint: Path, reading: Reading) -> str:
    return origin_of(*volume_files(volume), checkpoint, f"channel {reading.channel}")


def _predicted(
    targets: Mapping[Path, Path], checkpoint: Path, reading: Reading, spacing_um: tuple[float, float, float] | None
) -> Iterator[Path]:
    module = load_module(checkpoint)
    module.to(inference_device(module))
    for target, volume in targets.items():
        image = reading.read(volume, spacing_um=spacing_um)
        prob = predict_prob(module, scale_intensity(image.data, *module.experiment.patches.percentiles))
        try:
            made_from, grid = _origin(volume, checkpoint, reading), image.stated.grid
            write_prob(target, prob, image.spacing_um, grid=grid, made_from=made_from)
        except OSError as error:
            raise InputError(f"{target}: cannot be written ({error.strerror})") from error
        yield target


def inference_device(module: DistillModule) -> torch.device:
    """A GPU where there is one and the experiment allows it."""
    gpu = torch.cuda.is_available() and module.experiment.trainer.accelerator != "cpu"
    return torch.device("cuda" if gpu else "cpu")
