"""What watches a training: progress, time, data wait, SIGTERM. None of them changes what is learned."""

from __future__ import annotations

import signal
import sys
import time
from collections.abc import Callable
from types import FrameType
from typing import TYPE_CHECKING, cast, final

import lightning as L
from lightning.pytorch.callbacks import ProgressBar
from lightning.pytorch.strategies.launchers.subprocess_script import _SubprocessScriptLauncher
from torch.optim.lr_scheduler import LambdaLR

from distill3d.storage.lock import FolderLock
from distill3d.storage.provenance import peak_memory_gib
from distill3d.terminal import progress_bar, stderr
from distill3d.types import Batch

if TYPE_CHECKING:
    from distill3d.training.module import DistillModule

EXIT_SIGTERM = 143


@final
class TrainingBar(ProgressBar):
    """One bar over all optimizer steps with the running loss and the last validation Dice."""

    def __init__(self) -> None:
        super().__init__()
        self._progress = progress_bar(stderr())
        self._task = self._progress.add_task("training", total=None, info="")

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Start the bar at the step a resumed run continues from."""
        super().on_train_start(trainer, pl_module)
        if trainer.is_global_zero:
            self._progress.start()
            self._progress.update(self._task, total=trainer.estimated_stepping_batches)
            self._show(trainer)

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: object, batch: Batch, batch_idx: int
    ) -> None:
        """Move on by a step."""
        if trainer.is_global_zero and trainer.global_step % 5 == 0:
            self._show(trainer)

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Show the new Dice at once."""
        super().on_validation_end(trainer, pl_module)
        if trainer.is_global_zero:
            self._show(trainer)

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Leave a clean line."""
        self._progress.stop()

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        """Leave a clean line."""
        self._progress.stop()

    def _show(self, trainer: L.Trainer) -> None:
        seen = trainer.callback_metrics
        parts = [f"{label} {float(seen[key]):.3f}" for key, label in LABELS.items() if key in seen]
        self._progress.update(self._task, completed=trainer.global_step, info="  ".join(parts))


LABELS = {"train/loss": "loss", "val/dice": "val Dice", "val/explained": "held-out explained variance"}


@final
class RateOfSchedule(L.Callback):
    """Goes on at the rates of this run's schedule; the optimizer of a checkpoint has those of the former steps."""

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Set them for the first step; the schedule does so after every step."""
        for config in trainer.lr_scheduler_configs:
            scheduler = config.scheduler
            if isinstance(scheduler, LambdaLR):
                factors = [factor(scheduler.last_epoch) for factor in scheduler.lr_lambdas]
                for group, base, factor in zip(
                    scheduler.optimizer.param_groups, scheduler.base_lrs, factors, strict=True
                ):
                    group["lr"] = base * factor


@final
class StaysStopped(L.Callback):
    """Ends a training that stopped early, was killed before its end, and resumes; Lightning would train on."""

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Look at how long the checkpoint has waited."""
        waited = (each.wait_count >= each.patience for each in trainer.early_stopping_callbacks)
        trainer.should_stop = trainer.should_stop or any(waited)


@final
class HoldsStatistics(L.Callback):
    """Keeps running statistics that came from the teacher as long as the parameters beside them stay as they are.

    Args:
        steps: ``optimizer.freeze_transferred_steps``.
    """

    def __init__(self, steps: int) -> None:
        self.steps = steps

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Batch, batch_idx: int
    ) -> None:
        """Hold them before the first step, and let go of them."""
        if batch_idx == 0 or trainer.global_step == self.steps:
            module = cast("DistillModule", pl_module)
            module.student.hold(module.transferred if trainer.global_step < self.steps else ())


@final
class StepClock(L.Callback):
    """Measures what a run costs, over all processes that it was resumed in.

    Args:
        images_seen: how many images the teacher has seen in this process.

    Attributes:
        steps: number of timed steps; the first `warm_up` of each process are left out.
        step_seconds: total time in steps, from batch to optimizer.
        wait_seconds: total time between two steps, which is the wait for the next batch.
    """

    warm_up = 3

    def __init__(self, images_seen: Callable[[], int] = lambda: 0) -> None:
        self._images_seen, self._images, self._images_here = images_seen, 0, images_seen()
        self._began, self._before, self._peak = time.perf_counter(), 0.0, 0.0
        self.steps = 0
        self.step_seconds = 0.0
        self.wait_seconds = 0.0
        self._started = 0.0
        self._ended: float | None = None
        self._seen = 0
        self._step = 0

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Batch, batch_idx: int
    ) -> None:
        """Note when the batch was there."""
        self._started, self._step = time.perf_counter(), trainer.global_step
        if self._ended is not None and self._seen > self.warm_up:
            self.wait_seconds += self._started - self._ended

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: object, batch: Batch, batch_idx: int
    ) -> None:
        """Note when a batch, and with the last one of its step the step, was done."""
        self._ended = time.perf_counter()
        whole = trainer.global_step > self._step
        self._seen += whole
        if self._seen + (not whole) > self.warm_up:
            self.steps += whole
            self.step_seconds += self._ended - self._started

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Validation is neither a step nor a wait."""
        self._ended = None

    def state_dict(self) -> dict[str, float]:
        """Go into the checkpoint, so that the cost of a resumed run is that of the whole run."""
        return {
            "steps": self.steps,
            "step_seconds": self.step_seconds,
            "wait_seconds": self.wait_seconds,
            **self.totals(),
        }

    def load_state_dict(self, state_dict: dict[str, float]) -> None:
        """Go on counting where the checkpoint was written."""
        self.steps = int(state_dict["steps"])
        self.step_seconds, self.wait_seconds = state_dict["step_seconds"], state_dict["wait_seconds"]
        self._before, self._peak = state_dict.get("fit_seconds", 0.0), state_dict.get("peak_memory_gib", 0.0)
        self._images = int(state_dict.get("teacher_images", 0))

    def totals(self) -> dict[str, float]:
        """Seconds of training, peak memory in GiB, and images that the teacher saw meanwhile."""
        return {
            "fit_seconds": self._before + time.perf_counter() - self._began,
            "peak_memory_gib": max(self._peak, peak_memory_gib()),
            "teacher_images": self._images + self._images_seen() - self._images_here,
        }

    def cost(self) -> dict[str, float | None]:
        """Seconds per step and the share of the loop's time spent waiting for data; None before any timed step."""
        if not self.steps:
            return {"seconds_per_step": None, "data_wait_share": None}
        total = self.step_seconds + self.wait_seconds
        return {"seconds_per_step": self.step_seconds / self.steps, "data_wait_share": self.wait_seconds / total}


@final
class HoldsFolder(L.Callback):
    """Stops a training whose folder was removed or taken over, before it writes into another's.

    Args:
        lock: of the folder; held by the main process alone.
    """

    def __init__(self, lock: FolderLock) -> None:
        self.lock = lock

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Batch, batch_idx: int
    ) -> None:
        """Look before the step is logged."""
        self.lock.check()

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Look before a checkpoint is written."""
        self.lock.check()


@final
class ExitOnSigterm(L.Callback):
    """Ends the process with code 143 on SIGTERM; Lightning alone would end with 0, as if the run were complete."""

    def on_sanity_check_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Take over for the validation before the first step."""
        self._take_over(trainer)

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Take over where there was no validation before the first step."""
        self._take_over(trainer)

    def _take_over(self, trainer: L.Trainer) -> None:
        """Replace Lightning's handler, which broadcasts and hangs when a rank is inside a collective.

        Lightning sets its handler after ``on_fit_start`` and calls the one it finds only after its broadcast: set
        any earlier, this one would not be reached.
        """

        def stop(_signum: int, _frame: FrameType | None) -> None:
            signal.signal(signal.SIGTERM, signal.SIG_IGN)  # the launcher's watch sends another one for a killed rank
            launcher = trainer.strategy.launcher
            if isinstance(launcher, _SubprocessScriptLauncher):
                launcher.kill(signal.SIGKILL)  # the other ranks cannot finish a collective without this one
            sys.exit(EXIT_SIGTERM)

        signal.signal(signal.SIGTERM, stop)
