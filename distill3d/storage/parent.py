"""Ends a process of a training as soon as the one that started it is gone, however that ended."""

from __future__ import annotations

import contextlib
import ctypes
import functools
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator

LEADER = "DISTILL3D_LEADER"  # in the environment of what a process starts: its number, and that of its thread
LOOK_SECONDS = 1.0
_PR_SET_PDEATHSIG = 1


@contextlib.contextmanager
def leading() -> Iterator[None]:
    """Let what is started inside of this block end with this process: it calls `end_with_leader`."""
    os.environ[LEADER] = f"{os.getpid()}.{threading.get_native_id()}"
    try:
        yield
    finally:
        del os.environ[LEADER]


@functools.cache
def end_with_leader() -> None:
    """Let this process be killed when the one that leads it is gone: one in `leading`, or torchrun.

    Nothing gentler would do: a process that waits for others in native code runs no handler of Python's. Any other
    process goes on as it is.
    """
    started_by, _, thread = os.environ.pop(LEADER, "").partition(".")
    if started_by:
        leader = int(started_by)
    elif "TORCHELASTIC_RUN_ID" in os.environ:
        leader = os.getppid()
    else:
        return
    # The kernel means the thread that started this process: one beside the main one may end long before its process
    if sys.platform == "linux" and thread == started_by:
        with contextlib.suppress(OSError, AttributeError):
            ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != leader:  # it was gone before the kernel was asked
        _end()
    threading.Thread(target=_watch, args=(leader,), daemon=True, name="leader").start()


def _watch(leader: int) -> None:
    """Look for oneself, where the kernel does not tell."""
    while os.getppid() == leader:
        time.sleep(LOOK_SECONDS)
    _end()


def _end() -> None:
    os.kill(os.getpid(), signal.SIGKILL)
