"""What this machine has, dealt to workers, and which processes are still there. It starts and ends none.

A worker runs one trial at a time. GPUs are dealt out in equal shares by ``CUDA_VISIBLE_DEVICES``; where there is none,
the cores are by ``OMP_NUM_THREADS``, unless that is set already.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import psutil
import torch

from distill3d.config.schema import Experiment
from distill3d.errors import ConfigError

MARK = "DISTILL3D_TRIAL"  # in the environment of all that a trial starts: its folder
SILENCE_SECONDS = 300.0  # without a sign of life a runner on another machine counts as gone


@dataclass(frozen=True, kw_only=True, slots=True)
class Slot:
    """What one worker may use.

    Attributes:
        gpus: as ``CUDA_VISIBLE_DEVICES`` names them; empty for none.
        cores: for its trial.
    """

    gpus: tuple[str, ...]
    cores: int

    def environment(self, experiment: Experiment) -> dict[str, str]:
        """Return the variables that keep a trial to this share."""
        if self.gpus:
            return {"CUDA_VISIBLE_DEVICES": ",".join(self.gpus)}
        if "OMP_NUM_THREADS" in os.environ:
            return {}
        return {"OMP_NUM_THREADS": str(max(1, self.cores // experiment.trainer.devices))}


def gpus() -> tuple[str, ...]:
    """GPUs this process may use, as ``CUDA_VISIBLE_DEVICES`` names them."""
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    if named is not None:
        return tuple(name.strip() for name in named.split(",") if name.strip() not in {"", "-1"})
    return tuple(str(index) for index in range(torch.cuda.device_count()))


def cores() -> int:
    """Cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def deal(workers: int | None, *, devices: Sequence[str], n_cores: int, per_trial: int) -> list[Slot]:
    """Deal a machine out to workers.

    Args:
        workers: how many; None is as many as the GPUs allow, 2 on two or more cores without any.
        devices: the GPUs.
        n_cores: of the machine.
        per_trial: GPUs a trial needs, if there are any.

    Raises:
        ConfigError: no worker, or too many for each to get what a trial needs.

    Example:
        >>> [slot.gpus for slot in deal(2, devices=["0", "1", "2", "3"], n_cores=8, per_trial=2)]
        [('0', '1'), ('2', '3')]
    """
    most = max(1, len(devices) // per_trial) if devices else min(2, n_cores)
    count = most if workers is None else workers
    if count < 1:
        raise ConfigError(f"workers={count} is too few; accepted: 1 or more")
    share = len(devices) // count
    if devices and share < per_trial:
        raise ConfigError(
            f"{count} workers x {per_trial} GPUs need more than {len(devices)}; accepted: up to {most} workers"
        )
    return [
        Slot(gpus=tuple(devices[index * share : (index + 1) * share]), cores=max(1, n_cores // count))
        for index in range(count)
    ]


def owner() -> dict[str, Any]:
    """Who runs a trial: this process, told from a later one with the same number by when it began."""
    return {
        "host": socket.gethostname(),
        "pid": os.getpid(),
        "began": psutil.Process().create_time(),
        "beat": time.time(),
    }


def is_gone(owner: Mapping[str, Any], started: float) -> bool:
    """Whether the runner of a trial is no more, as far as can be told from here.

    Args:
        owner: as `owner` gave it, or empty if its runner did not come that far.
        started: when the trial was taken, seconds since the epoch.
    """
    if owner.get("host") == socket.gethostname():
        try:
            return psutil.Process(owner["pid"]).create_time() != owner["began"]
        except psutil.NoSuchProcess:
            return True
    return time.time() - owner.get("beat", started) > SILENCE_SECONDS


def survivors(folder: str) -> list[psutil.Process]:
    """Processes that a trial started and that outlived its runner.

    Args:
        folder: of the trial, absolute.
    """
    alive = []
    for process in psutil.process_iter():
        try:
            if process.pid != os.getpid() and process.environ().get(MARK) == folder:
                alive.append(process)
        except (psutil.Error, OSError):  # of another user, or gone meanwhile
            continue
    return alive
