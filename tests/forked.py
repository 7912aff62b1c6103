"""Processes forked from one that has imported it all: seconds of imports less for every command a test runs.

They are real processes with their own exit code, output, files and signals; so is the second rank of a command on two
devices. What a test says of imports, of a launcher that is not ours, or of another program wants a fresh interpreter:
`launched`.
"""

import atexit
import contextlib
import functools
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

_SERVER = Path(__file__).with_name("fork_server.py")
MAIN = "import distill3d.__main__ as program; program.main()"


@functools.cache
def _server():
    """Start the process that the others are forked from; it ends with this one, whose pipe it reads."""
    pipe = subprocess.PIPE
    server = subprocess.Popen([sys.executable, "-c", _SERVER.read_text()], stdin=pipe, stdout=pipe, text=True)
    atexit.register(server.__exit__, None, None, None)  # closes the pipes and waits
    return server


class Forked:
    """A running ``distill3d`` in a session of its own; methods are those of `subprocess.Popen`.

    Args:
        argv: after the program's name.
        out: existing file that takes what is printed.
        err: likewise; None: the same.
        env: environment; None: this process's.
        code: what to run instead of the command line.
    """

    def __init__(self, *argv, out, err=None, env=None, code=MAIN):
        self._folder = tempfile.TemporaryDirectory()
        self._ended = Path(self._folder.name, "ended")
        self.returncode = None
        job = {
            "argv": [str(word) for word in argv],
            "code": code,
            "cwd": str(Path.cwd()),
            "environ": dict(os.environ if env is None else env),
            "out": str(out),
            "err": str(err or out),
            "ended": str(self._ended),
        }
        server = _server()
        server.stdin.write(json.dumps(job) + "\n")
        server.stdin.flush()
        self.pid = int(server.stdout.readline())

    def poll(self):
        if self.returncode is None and self._ended.exists():
            self.returncode = int(self._ended.read_text())
            self._folder.cleanup()
        return self.returncode

    def wait(self, timeout):
        deadline = time.monotonic() + timeout
        while self.poll() is None:
            if time.monotonic() > deadline:
                raise subprocess.TimeoutExpired("distill3d", timeout)
            time.sleep(0.01)
        return self.returncode

    def send_signal(self, signum):
        if self.poll() is None:
            os.kill(self.pid, signum)

    def kill(self):
        """End all processes of its session."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)


def run(*argv, env=None, code=MAIN, seconds=240):
    """Run to the end in this folder and environment; returns exit code and output, as `subprocess.run` does."""
    with tempfile.TemporaryDirectory() as folder:
        out, err = Path(folder, "out"), Path(folder, "err")
        out.touch()
        err.touch()
        process = Forked(*argv, out=out, err=err, env=env, code=code)
        try:
            process.wait(seconds)
        finally:
            if process.poll() is None:
                process.kill()
        return subprocess.CompletedProcess(["distill3d", *argv], process.returncode, out.read_text(), err.read_text())
