"""The trained networks that files are segmented with, and how the stacks of their data were read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import final

from distill3d.config.registry import DATA
from distill3d.config.schema import Experiment
from distill3d.config.trace import TraceConfig
from distill3d.data.base import DataSource
from distill3d.data.gold import GoldRules
from distill3d.errors import InputError
from distill3d.evaluation.run_scores import trace_settings
from distill3d.experiment import experiment_from_plain
from distill3d.storage.checkpoint import CHECKPOINT_KEY, read_checkpoint
from distill3d.storage.links import require_inside
from distill3d.storage.models import checkpoint_of
from distill3d.storage.run_folder import RunFolder
from distill3d.storage.trained_on import trained_um
from distill3d.training.inference import inference_device
from distill3d.training.module import DistillModule, load_module
from distill3d.volumes.geometry import Spacing
from distill3d.volumes.lazy import LazyVolume
from distill3d.volumes.origin import origin_of
from distill3d.volumes.reading import Reading
from distill3d.volumes.volume import Volume, volume_files


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Networks:
    """Trained networks whose mean probability is taken, and how stacks are read for them.

    Attributes:
        checkpoints: of the networks, one or more.
        reading: how stacks are read.
        gold: how the gold beside them is.
        trace: how what they predict is traced.
        threshold: from which probability on a voxel is neuron.
        spacing_um: ZYX voxel size of all stacks; None takes what ``reading`` does.
        flips: average over the eight flips of a stack too.
    """

    checkpoints: tuple[Path, ...]
    reading: Reading
    gold: GoldRules
    trace: TraceConfig
    threshold: float
    spacing_um: Spacing | None = None
    flips: bool = False

    def origin(self, stack: Path) -> str:
        """Return what a prediction comes from: the stack, the channel, the networks.

        Raises:
            InputError: a file cannot be read.
        """
        return origin_of(*volume_files(stack), *self.checkpoints, f"channel {self.reading.channel}")

    @property
    def manner(self) -> str:
        """All else that a prediction depends on."""
        return origin_of(f"spacing {self.spacing_um} flips {self.flips}")

    def knows_spacing(self, image: Volume | LazyVolume) -> bool:
        """Whether the voxel size of a stack was stated somewhere, with a unit, and is no assumption."""
        stated = bool(image.stated.spacing_um) and image.stated.has_unit
        return bool(stated or self.spacing_um or self.reading.spacing_um)

    def modules(self, *, device: str | None = None, allow_plugins: bool = False) -> list[DistillModule]:
        """Load the networks, each on its device.

        Args:
            device: for all; None takes a GPU where there is one.
            allow_plugins: as for `networks_of`, for a process that did not make these.
        """
        modules = [load_module(path, allow_plugins=allow_plugins) for path in self.checkpoints]
        for module in modules:
            module.to(device or inference_device(module.experiment))
        return modules

    def read(self, stack: Path) -> Volume:
        """Read a stack.

        Raises:
            InputError: it cannot be used.
        """
        return self.reading.read(stack, spacing_um=self.spacing_um)

    def open(self, stack: Path) -> LazyVolume:
        """Open a stack to read it by block.

        Raises:
            InputError: it cannot be used.
        """
        return self.reading.open(stack, spacing_um=self.spacing_um)


def networks_of(
    runs: Sequence[Path | str],
    *,
    channel: int | None = None,
    spacing_um: Spacing | None = None,
    flips: bool = False,
    allow_plugins: bool = False,
) -> Networks:
    """Return the networks of runs, the best checkpoint of each; all else is as the first run has it.

    Args:
        runs: their folders, or files that `distill3d.training.export` wrote.
        channel: of stacks that have several; None takes the run's.
        spacing_um: see `Networks`.
        flips: likewise.
        allow_plugins: import the modules that a run names, though it lies outside of this project.

    Raises:
        InputError: a run has no checkpoint, or the runs read stacks differently.
        ConfigError: one would import modules, see ``allow_plugins``.
    """
    read = [_opened(run, channel, allow_plugins=allow_plugins) for run in runs]
    experiment, reading, traced = read[0]
    for run, (_, other, _) in zip(runs, read, strict=True):
        for name, value, first in (
            ("channel", other.channel, reading.channel),
            ("spacing", spacing_um or other.spacing_um, spacing_um or reading.spacing_um),
        ):
            if value != first:
                raise InputError(f"{run} reads stacks with {name} {value}, {runs[0]} with {first}; accepted: --{name}")
    source: type[DataSource] = DATA[experiment.data.name].cls
    return Networks(
        checkpoints=tuple(checkpoint_of(run) for run in runs),
        reading=reading,
        gold=source.gold_rules(experiment.data.config),
        trace=traced,
        threshold=experiment.inference.threshold,
        spacing_um=spacing_um,
        flips=flips,
    )


def run_reading(run: Path | str, *, channel: int | None = None, allow_plugins: bool = False) -> Reading:
    """Return how the data of a run were read.

    Args:
        run: its folder, or a file that `distill3d.training.export` wrote.
        channel: another than the run's.
        allow_plugins: as for `networks_of`.

    Raises:
        InputError: it has no checkpoint.
        ConfigError: it would import modules, see ``allow_plugins``.
    """
    return _opened(run, channel, allow_plugins=allow_plugins)[1]


def _opened(run: Path | str, channel: int | None, *, allow_plugins: bool) -> tuple[Experiment, Reading, TraceConfig]:
    """Return what a run was, how its data were read, and how its predictions are traced."""
    checkpoint = checkpoint_of(run)
    if checkpoint != Path(run):
        require_inside(Path(run))
    saved = read_checkpoint(checkpoint)[CHECKPOINT_KEY]
    experiment = experiment_from_plain(saved["experiment"], source=checkpoint, allow_plugins=allow_plugins)
    source: type[DataSource] = DATA[experiment.data.name].cls
    own = source.reading(experiment.data.config)
    reading = replace(
        own,
        channel=own.channel if channel is None else channel,
        percentiles=experiment.patches.percentiles,
        trained_um=trained_um(saved),
    )
    if "trace" in saved:
        return experiment, reading, TraceConfig(**saved["trace"])
    return experiment, reading, trace_settings(RunFolder(Path(run)), experiment)
