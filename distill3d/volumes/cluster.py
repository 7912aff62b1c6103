"""The processes that make calls: some of this machine, or the workers of any Dask cluster."""

from __future__ import annotations

import asyncio
import contextlib
import importlib.util
import logging
import os
import re
import signal
import threading
from collections.abc import Iterator
from types import FrameType
from typing import TYPE_CHECKING

from distill3d.errors import InputError, TrainingError
from distill3d.terminal import stderr
from distill3d.volumes.calls import Workers

if TYPE_CHECKING:
    from distributed import Client

_LOG = logging.getLogger(__name__)
_ANSWER_SECONDS = 10
_ADDRESS = re.compile(r"(tcp|tls)://(\[[0-9a-fA-F:.]+\]|[\w.-]+):\d{1,5}")
_IGNORE_CTRL_C = "import signal; signal.signal(signal.SIGINT, signal.SIG_IGN)"  # it is for the process that leads


@contextlib.contextmanager
def workers(
    count: int | None = None, scheduler: str | None = None, *, again: str = "goes on with what is missing"
) -> Iterator[Workers | None]:
    """Start processes on this machine, or use those of a cluster; none of both yields None, and Dask is not imported.

    Meanwhile, Ctrl-C and SIGTERM end this process with 130 and 143.

    Args:
        count: of processes, each with its share of this machine's cores and memory.
        scheduler: address of a Dask cluster, such as ``tcp://10.0.0.1:8786``.
        again: what the same command does after it was stopped, in words.

    Raises:
        InputError: both are given, a value is none, Dask is not installed, or nobody answers there.
    """
    if count is None and scheduler is None:
        yield None
        return
    if count is not None and scheduler is not None:
        raise InputError("--workers and --scheduler are both given; accepted: one of them")
    if count is not None and count < 1:
        raise InputError(f"--workers {count}; accepted: at least 1")
    if scheduler is not None and not _ADDRESS.fullmatch(scheduler):
        raise InputError(f"--scheduler {scheduler!r} is no address; accepted: such as tcp://10.0.0.1:8786")
    if importlib.util.find_spec("distributed") is None:
        raise InputError("--workers and --scheduler need Dask; accepted: pip install 'distill3d[cluster]'")
    importlib.import_module("distributed")  # sets its defaults, which would be lost with what is set before them
    from dask import config  # noqa: PLC0415 - optional

    # Parts of a stack are what calls are made of
    quiet = config.set({"distributed.admin.large-graph-warning-threshold": "1TB"})
    with quiet, _stoppable(again), _own(count) if scheduler is None else _connected(scheduler) as client:
        yield Workers(client, local=scheduler is None, again=again)


def _cores() -> int:
    """Return how many cores this process may use; a job or a container often has a few of a machine's."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@contextlib.contextmanager
def _own(count: int | None) -> Iterator[Client]:
    from dask import config  # noqa: PLC0415 - optional
    from distributed import Client, LocalCluster  # noqa: PLC0415 - optional

    threads = os.environ.get("OMP_NUM_THREADS", max(1, _cores() // (count or 1)))
    settings = {
        "distributed.nanny.pre-spawn-environ.OMP_NUM_THREADS": threads,
        # Dask's choice gives every large array back at once, to be cleared anew: 40 % more time
        "distributed.nanny.pre-spawn-environ.MALLOC_TRIM_THRESHOLD_": None,
        # Nothing that Dask holds is worth a disk; a worker that pauses would wait for what its networks never give back
        **{f"distributed.worker.memory.{each}": False for each in ("target", "spill", "pause")},
    }
    with config.set(settings):
        try:
            cluster = LocalCluster(
                n_workers=count,
                threads_per_worker=1,
                host="127.0.0.1",
                # Its page of health cannot be had without an address; any free port of this machine
                scheduler_kwargs={"dashboard": False, "dashboard_address": "127.0.0.1:0"},
                silence_logs=logging.CRITICAL,
                preload=[_IGNORE_CTRL_C],
            )
        except RuntimeError as error:
            raise TrainingError(f"--workers {count}: these processes cannot be started ({error})") from error
        with cluster, Client(cluster, set_as_default=False) as client:
            yield client


@contextlib.contextmanager
def _connected(address: str) -> Iterator[Client]:
    from distributed import Client  # noqa: PLC0415 - optional

    try:
        asyncio.run(asyncio.wait_for(_greet(address), _ANSWER_SECONDS))
    except Exception as error:
        raise InputError(
            f"{address}: no Dask scheduler answers within {_ANSWER_SECONDS} seconds; accepted: the address that "
            "`dask scheduler` prints, or cluster.scheduler_address"
        ) from error
    with _no_logs(), Client(address, timeout=_ANSWER_SECONDS, set_as_default=False) as client:
        if not client.nthreads():
            _LOG.warning("%s: has no worker yet; waits for one", address)
        yield client


@contextlib.contextmanager
def _no_logs() -> Iterator[None]:
    """Keep Dask from printing what is said here in one line, such as that the cluster is gone."""
    from distributed.utils import silence_logging_cmgr  # noqa: PLC0415 - optional

    with silence_logging_cmgr(logging.CRITICAL), silence_logging_cmgr(logging.CRITICAL, "distributed.client"):
        yield


async def _greet(address: str) -> None:
    """Hear from a scheduler; a client would wait for ever for one that listens and says nothing."""
    from distributed import Security  # noqa: PLC0415 - optional
    from distributed.comm.core import connect  # noqa: PLC0415 - optional

    comm = await connect(address, **Security().get_connection_args("client"))
    await comm.close()


@contextlib.contextmanager
def _stoppable(again: str) -> Iterator[None]:
    """Say in one line that a signal ends this process."""

    def stop(signum: int, _: FrameType | None) -> None:
        raise SystemExit(128 + signum)

    signals = (signal.SIGINT, signal.SIGTERM) if threading.current_thread() is threading.main_thread() else ()
    before = {each: signal.signal(each, stop) for each in signals}
    try:
        yield
    except SystemExit:
        stderr().print(f"stopped; the same command {again}", soft_wrap=True)
        raise
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)
