"""One trial as one subprocess in a process group of its own, so that it can be ended whole. It decides nothing."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import final

import psutil

from distill3d.sweep.machine import MARK, survivors
from distill3d.sweep.plan import Trial, passed
from distill3d.sweep.schema import Sweep

STOP_SECONDS = 20.0  # between asking a trial to stop and killing its process group
LOOK_AGAIN_SECONDS = 0.05
# A trial is told what it is by its arguments; what an agent or a launcher around the runner said is not for it. Of
# SLURM that is what makes a process one of several tasks; the job's own variables stay, for a command that calls srun.
_FOREIGN = re.compile(
    r"WANDB_RUN_ID|WANDB_SWEEP_ID|WANDB_SWEEP_PARAM_PATH|(LOCAL_|NODE_|GROUP_)?RANK|(LOCAL_)?WORLD_SIZE|TORCHELASTIC_\w+"
    r"|SLURM_(NTASKS\w*|NPROCS|TASKS_PER_NODE|PROCID|LOCALID|NODEID|GTIDS|TASK_PID|STEP\w*)"
)


@final
class TrialProcess:
    """A running trial.

    Attributes:
        was_done: the run had finished before this process began.
    """

    def __init__(self, sweep: Sweep, trial: Trial, *, flags: Sequence[str], environment: Mapping[str, str]) -> None:
        self.trial = trial
        self.was_done = trial.run.done.is_file()
        self._stopping: float | None = None
        trial.folder.mkdir(parents=True, exist_ok=True)
        trial.arguments_file.write_text(json.dumps(passed(sweep, trial.values)), encoding="utf-8")
        with trial.log.open("ab") as log:
            self._process = subprocess.Popen(  # noqa: S603 - the sweep file's own command
                [*trial.argv, *flags],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=_environment(sweep, trial) | dict(environment),
                process_group=0,
            )

    def poll(self) -> int | None:
        """Return the exit code once the trial has ended, and then leave nothing of its group behind."""
        code = self._process.poll()
        if code is not None or (self._stopping is not None and time.monotonic() > self._stopping + STOP_SECONDS):
            self.kill()
        return code

    def stop(self) -> None:
        """Ask the trial to stop; it has `STOP_SECONDS` to, then `poll` kills its group."""
        if self._stopping is None:
            self._stopping = time.monotonic()
            # The leader alone: it ends its other ranks itself, and its W&B client can still send what it has
            self._process.terminate()

    def kill(self) -> None:
        """End the whole process group at once."""
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, signal.SIGKILL)


def _environment(sweep: Sweep, trial: Trial) -> dict[str, str]:
    kept = {key: value for key, value in os.environ.items() if not _FOREIGN.fullmatch(key)}
    # `python` and `distill3d` are the ones that this runner runs with
    path = os.pathsep.join([str(Path(sys.executable).parent), kept.get("PATH", os.defpath)])
    return kept | {
        "PATH": path,
        MARK: str(trial.folder.resolve()),
        "WANDB_RUN_GROUP": sweep.name,
        "WANDB_TAGS": f"sweep:{sweep.name}",
    }


def end_survivors(folder: Path) -> int:
    """Kill what a trial left running when its runner was killed; returns how many processes that were."""
    ended: set[psutil.Process] = set()
    deadline = time.monotonic() + STOP_SECONDS
    # Until none is found: one that is being killed may just have started another. It need not be reaped, which is up
    # to the first process of the machine, and takes its time there.
    while (left := survivors(str(folder.resolve()))) and time.monotonic() < deadline:
        for process in left:
            with contextlib.suppress(psutil.Error):
                process.kill()
        ended.update(left)
        time.sleep(LOOK_AGAIN_SECONDS)
    return len(ended)
