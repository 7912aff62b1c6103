"""Configures Lightning the same way for every training, and ends it with the right exit code."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, final

import lightning as L
import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.callbacks import Callback, EarlyStopping, ModelCheckpoint
from lightning.pytorch.loggers import Logger
from lightning.pytorch.strategies.launchers.subprocess_script import _SubprocessScriptLauncher
from lightning.pytorch.utilities.exceptions import SIGTERMException
from torch.nn.parallel import DistributedDataParallel

from distill3d.config.schema import TrainerConfig
from distill3d.errors import ConfigError, InputError
from distill3d.storage.checkpoint import step_of
from distill3d.storage.parent import end_with_leader
from distill3d.storage.rank import is_main_process
from distill3d.storage.run_folder import RunFolder
from distill3d.teachers.base import Teacher
from distill3d.terminal import stderr
from distill3d.training.callbacks import EXIT_SIGTERM, ExitOnSigterm, RateOfSchedule, StaysStopped, TrainingBar
from distill3d.training.checkpoint_io import WholeCheckpoints
from distill3d.training.launch import cluster_environment
from distill3d.training.loggers import log_stop
from distill3d.training.numbers import NumbersWatch
from distill3d.training.ranks import LeaderWatch, RankLauncher, speaking_once
from distill3d.training.sharding import FSDP, sharding_strategy

EXIT_INTERRUPT = 130
STOPS = {EXIT_INTERRUPT: "Ctrl-C", EXIT_SIGTERM: "SIGTERM, as a sweep agent or a cluster sends it"}


def make_trainer(
    settings: TrainerConfig,
    folder: RunFolder,
    loggers: list[Logger],
    callbacks: list[Callback],
    *,
    monitor: str = "val/dice",
) -> L.Trainer:
    """Configure Lightning: one epoch is one validation interval, so that a checkpoint never falls inside one.

    Args:
        settings: how long and on what.
        folder: where checkpoints go.
        loggers: of the curves.
        callbacks: beside the usual ones.
        monitor: the logged score, larger is better, that picks the best checkpoint.
    """
    # Two of them: `save_last` would skip the epochs that did not improve, and a killed run would lose those.
    best = Checkpoints(
        folder.best.parent, filename=folder.best.stem, monitor=monitor, mode="max", enable_version_counter=False
    )
    last = Checkpoints(folder.last.parent, filename=folder.last.stem, enable_version_counter=False)
    watch: list[Callback] = [
        *callbacks,
        NumbersWatch(folder),
        ExitOnSigterm(),
        LeaderWatch(),
        RateOfSchedule(),
        best,
        last,
    ]
    if settings.early_stopping:
        watch += [EarlyStopping(monitor, mode="max", patience=settings.early_stopping), StaysStopped()]
    if stderr().is_terminal:
        watch.append(TrainingBar())
    gpu = settings.accelerator != "cpu" and torch.cuda.is_available()
    trainer = L.Trainer(
        accelerator=settings.accelerator,
        devices=settings.devices,
        num_nodes=settings.num_nodes,
        strategy=sharding_strategy(settings) if settings.strategy == FSDP else settings.strategy,
        plugins=[cluster_environment(settings), WholeCheckpoints()],
        precision=("bf16-mixed" if gpu else "32-true") if settings.precision == "auto" else settings.precision,
        max_epochs=settings.steps // settings.validate_every,
        accumulate_grad_batches=settings.accumulate,
        gradient_clip_val=settings.gradient_clip or None,
        log_every_n_steps=min(settings.log_every, settings.validate_every),
        logger=loggers,
        callbacks=watch,
        default_root_dir=folder.path,
        enable_progress_bar=stderr().is_terminal,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        use_distributed_sampler=False,
    )
    _end_ranks_together(trainer)
    return trainer


@final
class Checkpoints(ModelCheckpoint):
    """Keeps its best score where the run's folder was moved; Lightning would begin anew, and replace a better one."""

    @property
    def state_key(self) -> str:
        """As of Lightning's own class, whose state older checkpoints hold."""
        return super().state_key.replace(type(self).__qualname__, ModelCheckpoint.__qualname__)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take over the state, with its files where the folder is now."""

        def here(path: str | None) -> str | None:
            return str(Path(str(self.dirpath), Path(path).name)) if path else path

        paths = {key: here(state_dict[key]) for key in ("best_model_path", "kth_best_model_path", "last_model_path")}
        best = {here(path): score for path, score in state_dict["best_k_models"].items()}
        super().load_state_dict({**state_dict, **paths, "best_k_models": best, "dirpath": self.dirpath})


def _end_ranks_together(trainer: L.Trainer) -> None:
    launcher = trainer.strategy.launcher
    if isinstance(launcher, _SubprocessScriptLauncher):
        trainer.strategy._launcher = RankLauncher(  # noqa: SLF001 - Lightning has no argument for it
            launcher.cluster_environment, launcher.num_processes, launcher.num_nodes
        )


def check_trainer(settings: TrainerConfig, folder: RunFolder) -> None:
    """Find out whether Lightning can train with these settings here; nothing is written.

    Raises:
        ConfigError: it cannot: no such strategy, too few devices, or other processes than were asked for.
    """
    try:
        trainer = make_trainer(settings, folder, [], [])
    except (MisconfigurationException, RuntimeError, ValueError) as err:
        raise ConfigError(f"trainer: {' '.join(str(err).split())}") from err
    device = trainer.strategy.root_device.type
    if settings.sync_batchnorm and trainer.world_size > 1 and device == "cpu":
        raise ConfigError(
            f"trainer.sync_batchnorm=true with {trainer.world_size} processes on the {device}, where torch has no "
            "synchronized batch norm; accepted: GPUs, or false"
        )


def train(
    trainer: L.Trainer,
    module: L.LightningModule,
    data: L.LightningDataModule,
    *,
    folder: RunFolder,
    checkpoint: Path | None,
) -> None:
    """Run ``trainer.fit``; where it is stopped, say how to go on.

    Raises:
        SystemExit: 130 after Ctrl-C, 143 after SIGTERM; 1 where another process ended first, which says why.
        TrainingError: the numbers cannot be used, or another process is gone.
    """
    end_with_leader()
    _leave_teachers_out(module)
    try:
        with speaking_once(trainer), _stopped_as_asked():
            trainer.fit(module, datamodule=data, ckpt_path=checkpoint, weights_only=True)
    except SystemExit as err:
        if is_main_process():
            stderr().print(f"stopped; --resume goes on from {folder.path}", soft_wrap=True)
        # Lightning ends an interrupted fit with 1; the shell's convention is 128 + SIGINT
        code = EXIT_INTERRUPT if trainer.interrupted and err.code == 1 else err.code
        if isinstance(err, SIGTERMException):  # from Lightning's handler, before `ExitOnSigterm` has taken over
            code = EXIT_SIGTERM
        if code in STOPS:
            log_stop(trainer.loggers, STOPS[code])
        raise SystemExit(code) from err


@contextmanager
def _stopped_as_asked() -> Iterator[None]:
    """Raise a stop again where Lightning, tidying up after it, fails: one that came while data workers began.

    Raises:
        SystemExit: with the code of the stop; 1 after Ctrl-C, as Lightning itself ends then.
    """
    try:
        yield
    except RuntimeError as err:
        stop = err.__context__
        if not isinstance(stop, SystemExit | KeyboardInterrupt):
            raise
        raise SystemExit(stop.code if isinstance(stop, SystemExit) else 1) from stop


def _leave_teachers_out(module: L.LightningModule) -> None:
    """Keep DDP from sending a frozen teacher around: at the start its weights, in every step its running statistics."""
    teachers = [(path, part) for path, part in module.named_modules() if isinstance(part, Teacher)]
    kept = [
        f"{path}.{name}" for path, part in teachers for name, _ in [*part.named_parameters(), *part.named_buffers()]
    ]
    DistributedDataParallel._set_params_and_buffers_to_ignore_for_model(module, kept)  # noqa: SLF001 - torch's only way


def goes_on_from(folder: RunFolder, settings: TrainerConfig, *, resume: bool) -> tuple[Path | None, int]:
    """Return the checkpoint that a run goes on from, None for its beginning, and after how many steps it was written.

    Raises:
        InputError: it has trained more steps than are asked for.
    """
    if not (resume and folder.last.is_file()):
        return None, 0
    if (steps := step_of(folder.last)) > settings.steps:
        raise InputError(f"{folder.path}: has trained {steps} steps; accepted: trainer.steps={steps} or more")
    return folder.last, steps


@contextmanager
def quiet() -> Iterator[None]:
    """Keep Lightning's greetings and five known, harmless warnings off the terminal."""
    names = ("lightning.pytorch", "lightning.fabric")
    levels = {name: logging.getLogger(name).level for name in names}
    for name in names:
        logging.getLogger(name).setLevel(logging.ERROR)
    with warnings.catch_warnings():
        # the teacher is in eval mode on purpose
        warnings.filterwarnings("ignore", message=r".*module\(s\) in eval mode")
        # Lightning 2.6 with torch 2.14: its own use of a class torch has renamed
        warnings.filterwarnings("ignore", message=r".*LeafSpec")
        # one worker feeds the step (measured in `make bench`); Lightning counts cores instead
        warnings.filterwarnings("ignore", message=r".*does not have many workers")
        # FSDP: nothing changes the logits in place
        warnings.filterwarnings("ignore", message=r"FSDP2-wrapped module .* returned a view tensor")
        # a resumed run writes into its own folder on purpose
        warnings.filterwarnings("ignore", message=r"Checkpoint directory .* exists and is not empty")
        yield
    for name, level in levels.items():
        logging.getLogger(name).setLevel(level)
