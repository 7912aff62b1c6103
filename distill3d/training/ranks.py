"""The processes of one training live and end together, and one that fails says why once."""

# ruff: noqa: ARG002 - Lightning fixes the signatures

from __future__ import annotations

import os
import re
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any, final

import lightning as L
import torch.distributed
from lightning.fabric.utilities.distributed import _set_num_threads_if_needed
from lightning.pytorch.strategies.launchers.subprocess_script import _SubprocessScriptLauncher

from distill3d.errors import TrainingError, UserError, first_line
from distill3d.storage.parent import leading
from distill3d.terminal import stderr

LOOK_SECONDS = 0.5
GRACE_SECONDS = 10.0  # in which a process that lost another ends by itself, and a lost one is known to have ended
BEAT_SECONDS = 5.0
_LOST = re.compile(r"gloo|nccl|peer|socket|store|connection|broken pipe", re.IGNORECASE)


@final
class RankLauncher(_SubprocessScriptLauncher):
    """Starts the other processes of this node as Lightning does, but ends with exit 1 and a line where one is lost.

    Lightning kills the process it runs in instead, which a sweep takes for the kernel's doing.
    """

    def launch(self, function: Callable, *args: Any, trainer: Any = None, **kwargs: Any) -> Any:  # noqa: ANN401 - as the base class
        """Start the others and call the function, which trains."""
        self.cluster_environment.validate_settings(num_devices=self.num_processes, num_nodes=self.num_nodes)
        if not self.cluster_environment.creates_processes_externally:
            with leading():
                self._call_children_scripts()
        with self.watched():
            _set_num_threads_if_needed(num_processes=self.num_processes)
            return function(*args, **kwargs)

    @contextmanager
    def watched(self) -> Iterator[None]:
        """End this process if one that it started ends badly while the block runs."""
        over = threading.Event()
        if self.procs:
            threading.Thread(target=self._watch, args=(over,), daemon=True, name="ranks").start()
        try:
            yield
        finally:
            over.set()

    def failure(self) -> str:
        """Say which of the started processes ended badly, and how; empty if none did."""
        for rank, process in enumerate(self.procs, start=1):
            if code := process.poll():
                how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
                return f"process {rank + 1} of {len(self.procs) + 1} {how}; its own error is above, if it had one"
        return ""

    def _watch(self, over: threading.Event) -> None:
        """End this process if it waits in native code for one that is gone, where no exception reaches it."""
        while not over.wait(LOOK_SECONDS):
            if (failure := self.failure()) and not over.wait(GRACE_SECONDS):
                stderr().print(f"distill3d: {failure}", soft_wrap=True, highlight=False)
                self.kill(signal.SIGKILL)
                os._exit(TrainingError.exit_code)


@final
class LeaderWatch(L.Callback):
    """Ends a process whose leader is gone, on any machine and under any launcher: then its store answers no more."""

    def __init__(self) -> None:
        self._over = threading.Event()

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Begin when all processes have met."""
        if trainer.world_size > 1 and not trainer.is_global_zero and torch.distributed.is_initialized():
            store = torch.distributed.distributed_c10d._get_default_store()  # noqa: SLF001 - torch has no other way to it
            threading.Thread(target=self._watch, args=(store,), daemon=True, name="leader's store").start()

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """From here on the leader may go."""
        self._over.set()

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        """This process ends for a reason of its own."""
        self._over.set()

    def _watch(self, store: torch.distributed.Store) -> None:  # pyright: ignore[reportPrivateImportUsage] - as torch documents it
        while not self._over.wait(BEAT_SECONDS):
            try:
                store.check(["leader"])
            except RuntimeError:
                if not self._over.is_set():
                    os._exit(TrainingError.exit_code)


@contextmanager
def ending_together(trainer: L.Trainer) -> Iterator[None]:
    """Run what all processes do after their training: one that fails ends them all, and says why once."""
    launcher = trainer.strategy.launcher
    with launcher.watched() if isinstance(launcher, RankLauncher) else nullcontext(), speaking_once(trainer):
        yield


@contextmanager
def speaking_once(trainer: L.Trainer) -> Iterator[None]:
    """Raise what `only_once` makes of an error.

    Raises:
        SystemExit: 1 where another process ended first, which says why.
        TrainingError: another process is gone.
    """
    try:
        yield
    except Exception as err:
        shown = only_once(trainer, err)
        if shown is err:
            raise
        raise shown from err


def only_once(trainer: L.Trainer, error: Exception) -> BaseException:
    """Return what is to be raised for an error of this process: another process's own error is shown by that one.

    Args:
        trainer: that raised it.
        error: as it was raised.
    """
    if trainer.world_size == 1 or isinstance(error, (UserError, TrainingError)):
        return error
    launcher = trainer.strategy.launcher
    if isinstance(launcher, RankLauncher) and launcher.procs:
        deadline = time.monotonic() + GRACE_SECONDS
        while not (failure := launcher.failure()) and _lost(error) and time.monotonic() < deadline:
            time.sleep(LOOK_SECONDS)
        if failure:
            return TrainingError(failure)
    if not _lost(error):
        return error
    if trainer.is_global_zero:
        return TrainingError(f"another process of this training is gone ({first_line(error)}); its own error says why")
    return SystemExit(TrainingError.exit_code)


def _lost(error: Exception) -> bool:
    """Whether an error only says that another process is gone."""
    known = isinstance(error, torch.distributed.DistError)
    return known or (isinstance(error, RuntimeError) and bool(_LOST.search(first_line(error))))
