"""Calls made by other processes: by some of this machine, or by the workers of any Dask cluster."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import hashlib
import importlib.metadata
import importlib.util
import logging
import os
import pickle
import re
import signal
import threading
import uuid
from collections.abc import Callable, Collection, Iterator, Mapping
from concurrent.futures import CancelledError
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any, TypeAlias, final

import distill3d
from distill3d.errors import InputError, TrainingError
from distill3d.terminal import stderr, warnings_of
from distill3d.volumes.memory import allow_gib, chosen_gib

if TYPE_CHECKING:
    from distributed import Client, Future

_LOG = logging.getLogger(__name__)
_ANSWER_SECONDS = 10
_ADDRESS = re.compile(r"(tcp|tls)://(\[[0-9a-fA-F:.]+\]|[\w.-]+):\d{1,5}")
_IGNORE_CTRL_C = "import signal; signal.signal(signal.SIGINT, signal.SIG_IGN)"  # it is for the process that leads

Key: TypeAlias = tuple[str, int]  # what is done, and with what


@final
class Workers:
    """Processes that make calls, however many there are at a time; a call whose worker dies is made by another.

    Args:
        client: of the cluster.
        local: whether they are this process's own: they see its working directory, and end with it.
    """

    def __init__(self, client: Client, *, local: bool) -> None:
        self._client, self._local = client, local

    def path(self, path: Path) -> Path:
        """Return how workers name a file of this process."""
        return path if self._local else path.absolute()

    def start(
        self, function: Callable[[Any, Key], Any], shared: object, after: Mapping[Key, Collection[Key]]
    ) -> dict[Key, Future]:
        """Let workers call ``function(shared, key)`` for every key.

        Args:
            function: of a module; a call may be made twice if its worker dies.
            shared: is pickled once; what a call keeps in it, the next one of the same worker has.
            after: which calls must have ended before that of a key.

        Returns:
            The calls, for `result` and `results`.
        """
        token = uuid.uuid4().hex

        def name(key: Key) -> Key:
            return f"{key[0]}-{token}", key[1]

        payload = pickle.dumps((function, shared, chosen_gib()))
        graph: dict[Any, Any] = {f"shared-{token}": payload}
        for key, others in after.items():
            graph[name(key)] = (_call, version(), f"shared-{token}", *key, list(map(name, others)))
        futures: Any = self._client.get(graph, list(map(name, after)), sync=False)
        return dict(zip(after, futures, strict=True))

    @staticmethod
    def result(call: Future) -> Any:  # noqa: ANN401 - whatever was called returns it
        """Wait for a call and return what it returned; log what it warned of.

        Raises:
            UserError: or whatever else the call raised.
            InputError: the workers cannot import distill3d.
            TrainingError: a worker died of it, again and again, or the cluster is gone.
        """
        from distributed import KilledWorker  # noqa: PLC0415 - optional

        try:
            returned, warnings = call.result()
        except KilledWorker as error:
            raise TrainingError(
                f"{error.allowed_failures + 1} workers died one after another of the same part; accepted: workers with "
                "more memory, fewer of them on a machine"
            ) from error
        except ModuleNotFoundError as error:
            raise InputError(f"a worker cannot be used ({error}); accepted: workers with {version()}") from error
        except CancelledError as error:
            raise TrainingError("the cluster is gone; the same command goes on with what is missing") from error
        for each in warnings:
            _LOG.warning("%s", each)
        return returned

    def results(self, calls: Mapping[Key, Future]) -> Iterator[tuple[Key, Any]]:
        """Yield keys and what their calls returned as these end; those that are left are cancelled after an error.

        Raises:
            UserError: or whatever else `result` raises.
        """
        from distributed import as_completed  # noqa: PLC0415 - optional

        keys = {call.key: key for key, call in calls.items()}
        try:
            for call in as_completed(calls.values(), loop=self._client.loop):
                yield keys[call.key], self.result(call)
        finally:
            self._client.cancel(list(calls.values()))


@contextlib.contextmanager
def workers(count: int | None = None, scheduler: str | None = None) -> Iterator[Workers | None]:
    """Start processes on this machine, or use those of a cluster; none of both yields None, and Dask is not imported.

    Meanwhile, Ctrl-C and SIGTERM end this process with 130 and 143.

    Args:
        count: of processes, each with its share of this machine's cores and memory.
        scheduler: address of a Dask cluster, such as ``tcp://10.0.0.1:8786``.

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
    with _stoppable(), _own(count) if scheduler is None else _connected(scheduler) as client:
        yield Workers(client, local=scheduler is None)


@functools.cache
def version() -> str:
    """Return what must be the same on all workers: of this package, its code, and torch."""
    folder = Path(distill3d.__file__).parent
    code = hashlib.sha256(b"".join(path.read_bytes() for path in sorted(folder.rglob("*.py")))).hexdigest()
    number, torch = map(importlib.metadata.version, ("distill3d", "torch"))
    return f"distill3d {number} (code {code[:8]}), torch {torch}"


def gpu_of(worker: str, count: int) -> int:
    """Return which of a machine's GPUs a worker has: that of the number its name ends with.

    Names are numbered by Dask and dask-jobqueue on their own; a worker that is started again keeps its name.

    >>> gpu_of("3", 4), gpu_of("SLURMCluster-5-1", 2), gpu_of("alone", 2)
    (3, 1, 0)
    """
    number = re.search(r"\d+$", worker)
    return int(number[0]) % count if number else 0


@contextlib.contextmanager
def _own(count: int | None) -> Iterator[Client]:
    from dask import config  # noqa: PLC0415 - optional
    from distributed import Client, LocalCluster  # noqa: PLC0415 - optional

    threads = os.environ.get("OMP_NUM_THREADS", max(1, (os.cpu_count() or 1) // (count or 1)))
    settings = {
        "distributed.nanny.pre-spawn-environ.OMP_NUM_THREADS": threads,
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
    with Client(address, timeout=_ANSWER_SECONDS, set_as_default=False) as client:
        if not client.nthreads():
            _LOG.warning("%s: has no worker yet; waits for one", address)
        yield client


async def _greet(address: str) -> None:
    """Hear from a scheduler; a client would wait for ever for one that listens and says nothing."""
    from distributed import Security  # noqa: PLC0415 - optional
    from distributed.comm.core import connect  # noqa: PLC0415 - optional

    comm = await connect(address, **Security().get_connection_args("client"))
    await comm.close()


@contextlib.contextmanager
def _stoppable() -> Iterator[None]:
    """Say in one line that a signal ends this process."""

    def stop(signum: int, _: FrameType | None) -> None:
        raise SystemExit(128 + signum)

    signals = (signal.SIGINT, signal.SIGTERM) if threading.current_thread() is threading.main_thread() else ()
    before = {each: signal.signal(each, stop) for each in signals}
    try:
        yield
    except SystemExit:
        stderr().print("stopped; the same command goes on with what is missing", soft_wrap=True)
        raise
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)


def _call(expected: str, payload: bytes, name: str, number: int, _: object) -> tuple[Any, list[str]]:
    """Make a call on a worker; returns what it warned of too.

    Raises:
        InputError: this worker runs other code.
    """
    from distributed import get_worker  # noqa: PLC0415 - optional

    worker = get_worker()
    if version() != expected:
        raise InputError(f"worker {worker.address} runs {version()}; accepted: {expected}, as here")
    function, shared, gib = _unpickled(payload)
    allow_gib(gib)
    _take_gpu(str(worker.name))
    with warnings_of("distill3d") as warnings:
        return function(shared, (name, number)), warnings


@functools.lru_cache(maxsize=1)
def _unpickled(payload: bytes) -> tuple[Callable[[Any, Key], Any], object, float | None]:
    return pickle.loads(payload)  # noqa: S301 - of the process that this worker works for


def _take_gpu(worker: str) -> None:
    import torch  # noqa: PLC0415 - a second of import

    if torch.cuda.is_available():
        torch.cuda.set_device(gpu_of(worker, torch.cuda.device_count()))
