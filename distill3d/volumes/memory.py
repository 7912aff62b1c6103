"""How much memory a file may ask for: the one place that knows the limit, and checks claims before they are met."""

from __future__ import annotations

import contextlib
import functools
import math
from pathlib import Path, PurePosixPath
from typing import BinaryIO

import psutil

from distill3d.errors import InputError

DEFLATE = 1032.0  # bytes that one byte of zlib or gzip becomes at most
_GROUPS, _OWN_GROUPS = Path("/sys/fs/cgroup"), Path("/proc/self/cgroup")  # of a container, or of a job of a cluster
_SHARE = 0.5
_chosen: list[float] = []  # GiB


def allow_gib(gib: float | None) -> None:
    """Set the limit of this process and of those it starts by forking; None: half of the machine's memory."""
    _chosen[:] = [] if gib is None else [gib]


def chosen_gib() -> float | None:
    """Return the limit that was set, for a process that is not forked."""
    return _chosen[0] if _chosen else None


def require_room(
    what: Path | str, n_bytes: float, *, stored: int | None = None, expansion: float = 1.0, claims: str = "claims"
) -> None:
    """Refuse a claim on memory before anything of its size is allocated.

    Args:
        what: that asks for it: a file, a tree.
        n_bytes: asked for.
        stored: bytes that it has on disk; None where the claim is no file's.
        expansion: bytes that one of these becomes at most; infinity where its compression knows no bound.
        claims: how it asks, for the error.

    Raises:
        InputError: the file cannot hold so much, or it is more than the limit.

    >>> require_room("a.npy", 1 << 40, stored=100)
    Traceback (most recent call last):
    ...
    distill3d.errors.InputError: a.npy: truncated or damaged; claims 1024 GiB, which its 100 bytes cannot hold
    """
    if stored is not None and n_bytes > stored * expansion:
        raise InputError(
            f"{what}: truncated or damaged; {claims} {in_words(n_bytes)}, which its {stored} bytes cannot hold"
        )
    limit = _limit()
    if n_bytes > limit:
        why = "--max-gib" if _chosen else "half of this machine's memory; --max-gib changes it"
        raise InputError(f"{what}: {claims} {in_words(n_bytes)}; accepted: at most {in_words(limit)} ({why})")


def unpacked(what: Path, file: BinaryIO, n_bytes: int) -> bytes:
    """Return what a compressed file holds, which it says is so many bytes; not a byte more is unpacked than proves it.

    Args:
        what: for the error.
        file: unpacks as it is read, such as `gzip.GzipFile`.
        n_bytes: that the file claims; `require_room` was asked.

    Raises:
        InputError: it holds less, or more.
    """
    content = file.read(n_bytes + 1)
    if len(content) != n_bytes:
        holds = "more" if len(content) > n_bytes else f"{len(content)}"
        raise InputError(f"{what}: truncated or damaged; {holds} bytes found, {n_bytes} expected")
    return content


def in_words(n_bytes: float) -> str:
    """Write an amount of memory.

    >>> in_words(64 * 2**30), in_words(3 * 2**19), in_words(17)
    ('64 GiB', '1.5 MiB', '17 bytes')
    """
    for unit, size in (("GiB", 2.0**30), ("MiB", 2.0**20), ("KiB", 2.0**10)):
        if n_bytes >= size:
            amount = n_bytes / size
            return f"{amount:.0f} {unit}" if 100 <= amount < 1e6 else f"{amount:.3g} {unit}"
    return f"{n_bytes:.0f} bytes"


def _limit() -> float:
    return _chosen[0] * 2**30 if _chosen else _SHARE * machine_bytes()


@functools.cache
def machine_bytes() -> float:
    """Return how much memory the machine, or the container or job on it, has."""
    return min(_group_bytes(), psutil.virtual_memory().total)


def _group_bytes() -> float:
    """Return the least that this process's control groups, and those around them, may take; infinity where none is."""
    try:
        lines = _OWN_GROUPS.read_text().splitlines()
    except OSError:  # no Linux
        return math.inf
    limits: list[float] = []
    for line in lines:
        _, kinds, place = line.split(":", 2)
        if kinds and "memory" not in kinds.split(","):
            continue
        root, name = (_GROUPS / "memory", "memory.limit_in_bytes") if kinds else (_GROUPS, "memory.max")  # v1, v2
        own = PurePosixPath(place.lstrip("/"))
        for group in (
            own,
            *own.parents,
        ):  # seen from in a container, only the last one may be there
            with contextlib.suppress(OSError, ValueError):  # or "max"
                limits.append(float((root / group / name).read_text()))
    return min(limits, default=math.inf)
