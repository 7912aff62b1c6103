"""Calls that other processes make for this one, in order or in any, each again if its worker dies."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import importlib.metadata
import io
import logging
import pickle
import uuid
from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from concurrent.futures import CancelledError
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar, final

import distill3d
from distill3d.errors import InputError, TrainingError
from distill3d.terminal import warnings_of
from distill3d.volumes.memory import allow_gib, chosen_gib

if TYPE_CHECKING:
    from distributed import Client, Future

_LOG = logging.getLogger(__name__)
_AHEAD = 64  # calls of `made` that are asked for before their turn, at least

Key: TypeAlias = tuple[str, int]  # what is done, and with what
Item = TypeVar("Item")
Result = TypeVar("Result")
Shared = TypeVar("Shared")


def made(
    function: Callable[[Shared, Item], Result], shared: Shared, items: Iterable[Item], workers: Workers | None
) -> Iterator[Result]:
    """Yield ``function(shared, item)`` of all items in their order, made here or by workers; see `Workers.made`."""
    if workers is None:
        return (function(shared, item) for item in items)
    return workers.made(function, shared, items)


def grouped(items: Iterable[Item], size: Callable[[Item], float], least: float) -> Iterator[list[Item]]:
    """Yield items in groups that are worth a call: the sizes of each but the last add up to ``least``.

    >>> list(grouped([3, 1, 1, 5], size=abs, least=4))
    [[3, 1], [1, 5]]
    """
    group, total = list[Item](), 0.0
    for item in items:
        group.append(item)
        total += size(item)
        if total >= least:
            yield group
            group, total = [], 0.0
    if group:
        yield group


@final
class Workers:
    """Processes that make calls, however many there are at a time; a call whose worker dies is made by another.

    Args:
        client: of the cluster.
        local: whether they are this process's own: they see its working directory, and end with it.
        again: what the same command does after it was stopped.
    """

    def __init__(self, client: Client, *, local: bool, again: str) -> None:
        self._client, self._local, self._again = client, local, again

    def made(
        self, function: Callable[[Shared, Item], Result], shared: Shared, items: Iterable[Item]
    ) -> Iterator[Result]:
        """Yield ``function(shared, item)`` of all items in their order; some are made ahead of what is asked for.

        Args:
            function: of a module; a call may be made twice if its worker dies.
            shared: is pickled once, as in `start`.
            items: are pickled, each as its turn comes.

        Raises:
            UserError: or whatever else `result` raises.
        """
        with self._there():
            payload = self._client.submit(bytes, self._pickled((function, shared, chosen_gib())), pure=False)
            known: Any = self._client.nthreads()
        ahead, waiting = max(_AHEAD, 4 * len(known)), deque[Any]()
        try:
            for item in items:
                with self._there():
                    waiting.append(self._client.submit(_make, version(), payload, self._pickled(item), pure=False))
                if len(waiting) > ahead:
                    yield self.result(waiting.popleft())
            while waiting:
                yield self.result(waiting.popleft())
        finally:
            self._cancel(waiting)

    def start(
        self, function: Callable[[Any, Key], Any], shared: object, after: Mapping[Key, Collection[Key]]
    ) -> dict[Key, Future]:
        """Let workers call ``function(shared, key)`` for every key.

        Args:
            function: of a module; a call may be made twice if its worker dies.
            shared: is pickled once; what a call keeps in it, the next one of the same worker has. Its paths name the
                files of this process.
            after: which calls must have ended before that of a key.

        Returns:
            The calls, for `result` and `results`.
        """
        token = uuid.uuid4().hex

        def name(key: Key) -> Key:
            return f"{key[0]}-{token}", key[1]

        graph: dict[Any, Any] = {f"shared-{token}": self._pickled((function, shared, chosen_gib()))}
        for key, others in after.items():
            graph[name(key)] = (_call, version(), f"shared-{token}", *key, list(map(name, others)))
        with self._there():
            futures: Any = self._client.get(graph, list(map(name, after)), sync=False)
        return dict(zip(after, futures, strict=True))

    def result(self, call: Future) -> Any:  # noqa: ANN401 - whatever was called returns it
        """Wait for a call and return what it returned; log what it warned of.

        Raises:
            UserError: or whatever else the call raised.
            InputError: the workers cannot import distill3d.
            TrainingError: a worker died of it, again and again, or the cluster is gone.
        """
        from distributed import KilledWorker  # noqa: PLC0415 - optional

        try:
            with self._there():
                returned, warnings = call.result()
        except KilledWorker as error:
            raise TrainingError(
                f"{error.allowed_failures + 1} workers died one after another of the same part; accepted: workers with "
                "more memory, fewer of them on a machine"
            ) from error
        except ModuleNotFoundError as error:
            raise InputError(f"a worker cannot be used ({error}); accepted: workers with {version()}") from error
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
            self._cancel(calls.values())

    @contextlib.contextmanager
    def _there(self) -> Iterator[None]:
        """Say in one way that the cluster is gone, for which Dask has several."""
        from distributed.client import ClosedClientError  # noqa: PLC0415 - optional

        try:
            yield
        except (CancelledError, ClosedClientError, OSError) as error:
            if isinstance(error, OSError) and error.errno is not None:  # of a file that a worker is at
                raise
            raise TrainingError(f"the cluster is gone; the same command {self._again}") from error

    def _cancel(self, calls: Iterable[Future]) -> None:
        with contextlib.suppress(TrainingError), self._there():
            self._client.cancel(list(calls))

    def _pickled(self, content: object) -> bytes:
        """Pickle something, with paths as workers name them."""
        file = io.BytesIO()
        pickler = pickle.Pickler(file, pickle.HIGHEST_PROTOCOL)
        if not self._local:
            pickler.dispatch_table = {type(Path()): lambda path: (Path, (str(path.absolute()),))}
        pickler.dump(content)
        return file.getvalue()


@functools.cache
def version() -> str:
    """Return what must be the same on all workers: of this package, its code, and torch."""
    folder = Path(distill3d.__file__).parent
    code = hashlib.sha256(b"".join(path.read_bytes() for path in sorted(folder.rglob("*.py")))).hexdigest()
    number, torch = map(importlib.metadata.version, ("distill3d", "torch"))
    return f"distill3d {number} (code {code[:8]}), torch {torch}"


def require_seen(look: Callable[[], object], expected: object, what: Path | str) -> None:
    """Refuse to work on a file that is another one here than for the process that leads.

    Args:
        look: finds out what is known of the file.
        expected: what the process that leads found.
        what: the file, for the error.

    Raises:
        InputError: it is.
    """
    try:
        same = look() == expected
    except InputError:
        same = False
    if not same:
        raise InputError(f"{what}: a worker does not see what this process does; accepted: workers that share its disk")


def _call(expected: str, payload: bytes, name: str, number: int, _: object) -> tuple[Any, list[str]]:
    return _answer(expected, payload, (name, number))


def _make(expected: str, payload: bytes, item: bytes) -> tuple[Any, list[str]]:
    return _answer(expected, payload, pickle.loads(item))  # noqa: S301 - of the process that this worker works for


def _answer(expected: str, payload: bytes, item: object) -> tuple[Any, list[str]]:
    """Make a call on a worker; returns what it warned of too.

    Raises:
        InputError: this worker runs other code.
    """
    from distributed import get_worker  # noqa: PLC0415 - optional

    if version() != expected:
        raise InputError(f"worker {get_worker().address} runs {version()}; accepted: {expected}, as here")
    with warnings_of("distill3d"):  # of files that are opened again; the process that leads has said it
        function, shared, gib = _unpickled(payload)
    allow_gib(gib)
    with warnings_of("distill3d") as warnings:
        return function(shared, item), warnings


@functools.lru_cache(maxsize=1)
def _unpickled(payload: bytes) -> tuple[Callable[[Any, Any], Any], object, float | None]:
    return pickle.loads(payload)  # noqa: S301 - of the process that this worker works for
