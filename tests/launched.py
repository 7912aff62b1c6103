"""Processes that tests start: what they print goes to a file, and none of them, nor what they started, is left."""

import contextlib
import itertools
import os
import signal
import subprocess
import sys
import time

import psutil
from forked import MAIN, Forked

WAIT = 600.0  # seconds: for a busy machine; nothing waits longer than it must
TEST = "DISTILL3D_TEST"  # in the environment of all that a launched process starts, whatever session that is in
DISTILL3D = (sys.executable, "-m", "distill3d")


def wait_for(condition, seconds=WAIT, *, describe=lambda: ""):
    """Return what the condition gives as soon as it gives something; fail with the description after some seconds."""
    deadline = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < deadline, describe()
        time.sleep(0.1)
    return value


def marked(name, value):
    """Processes with a variable in their environment; none that has ended and only waits to be reaped."""
    pids = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):  # of another user, or gone meanwhile
            if process.environ().get(name) == value:
                pids.append(process)
    return pids


class Launched:
    """A running process, ended with all it started when its block is left.

    Attributes:
        log: what it and its children print.
    """

    _numbers = itertools.count()

    def __init__(self, *argv, folder, **environment):
        number = next(self._numbers)
        self.log, self._mark = folder / f"printed{number}.txt", f"{os.getpid()}.{number}"
        self.log.touch()
        self.process = self._start([str(word) for word in argv], os.environ | environment | {TEST: self._mark})

    def _start(self, argv, env):
        # A handler becomes the default in a child; what is ignored, as in a script's background, would stay ignored
        before = signal.signal(signal.SIGINT, signal.default_int_handler)
        try:
            with self.log.open("wb") as log:
                return subprocess.Popen(
                    argv,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    env=env,
                    start_new_session=True,
                )
        finally:
            signal.signal(signal.SIGINT, before)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.end()

    @property
    def printed(self):
        return self.log.read_text(errors="replace")

    def wait(self, seconds=WAIT):
        """Return the exit code."""
        try:
            return self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"still running after {seconds} s: {self.printed}") from None

    def until(self, condition, seconds=WAIT):
        """Wait for something that must happen before the process ends."""

        def come():
            ended = self.process.poll() is not None
            value = condition()
            assert value or not ended, self.printed
            return value

        return wait_for(come, seconds, describe=lambda: self.printed)

    def end(self):
        """Kill it and what it started, in whatever session, until there is none."""

        def killed():
            left = marked(TEST, self._mark)
            for process in left:
                with contextlib.suppress(psutil.Error):
                    process.kill()
            return not left

        self.process.kill()  # a forked one is not marked
        wait_for(killed)
        self.process.wait(WAIT)


class Command(Launched):
    """A running ``distill3d ...``, forked; what it starts itself, but for the second rank, are fresh processes."""

    code = MAIN

    def _start(self, argv, env):
        return Forked(*argv, out=self.log, env=env, code=self.code)


def run(*argv, folder, **environment):
    """Run to the end; returns exit code and what was printed."""
    with Launched(*argv, folder=folder, **environment) as process:
        return process.wait(), process.printed
