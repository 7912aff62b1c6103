"""Data workers: how many the machine's shared memory carries, and how each begins."""

from __future__ import annotations

import logging
import os
import shutil
import sys
import tempfile
from pathlib import Path
from types import TracebackType

from lightning.fabric.utilities.seed import pl_worker_init_function

from distill3d.storage.rank import is_main_process

_LOG = logging.getLogger(__name__)
SHARED_MEMORY = Path("/dev/shm")  # noqa: S108 - where torch's workers leave their batches
PREFETCH = 4  # batches a worker may be ahead
SOCKET_PATH = 75  # characters of the temporary folder: a socket's name has 107 at most, its own part 32
SHARE = 0.5  # of what is free; the rest is for others, such as NCCL and a second run


def workers_that_fit(wanted: int, *, batch_bytes: int, processes: int) -> int:
    """Return as many workers as there is shared memory for, and warn where these are fewer.

    The kernel kills a worker whose batch does not fit, and a training then stops or waits for it for ever. Containers
    have 64 MiB unless they are told otherwise. What is trained does not depend on the number of workers.

    Args:
        wanted: workers of each process.
        batch_bytes: of a batch; a worker is `PREFETCH` of them ahead of the one in use.
        processes: on this machine.
    """
    if wanted and len(os.fsencode(folder := tempfile.gettempdir())) > SOCKET_PATH:
        if is_main_process():
            _LOG.warning(
                "%s: too long a path for data workers, patches are cut by the training itself; TMPDIR with at most %d "
                "characters lets them",
                folder,
                SOCKET_PATH,
            )
        return 0  # they could not send a batch, and the training would wait for ever
    if not wanted or not SHARED_MEMORY.is_dir():
        return wanted
    free = shutil.disk_usage(SHARED_MEMORY).free
    count = min(wanted, int(SHARE * free) // (processes * (PREFETCH + 1) * batch_bytes))
    if count < wanted and is_main_process():
        _LOG.warning(
            "%s has %d MiB free, too little for %d data workers: %d cut the patches, which may be slower; a container "
            "gets more with --shm-size or --ipc=host",
            SHARED_MEMORY,
            free // 2**20,
            wanted,
            count,
        )
    return count


def begin_worker(number: int) -> None:
    """Seed a worker as Lightning does, and let it end without last words when the process it works for is killed.

    It ends by itself some seconds later; until then the thread that hands out its batches would print a traceback.
    """
    if int(os.environ.get("PL_SEED_WORKERS", "0")):
        pl_worker_init_function(number)
    show = sys.excepthook

    def hook(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        if not isinstance(error, (ConnectionError, EOFError)):
            show(kind, error, trace)

    sys.excepthook = hook
