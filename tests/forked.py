"""Processes forked from one that has imported it all: seconds of imports less for every command a test runs.

They are real processes with their own exit code, output, files and signals. What a test says of imports, of ranks that
somebody else starts, or of another program wants a fresh interpreter: `launched`.
"""

import functools
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

_SERVER = """
import json, os, signal, sys, traceback
import distill3d.__main__, distill3d.evaluation.run_scores, distill3d.evaluation.file_scores, distill3d.report.build
import distill3d.sweep.runner, distill3d.training.audit, distill3d.training.fit, distill3d.tracing.trace

def child(job):
    os.setsid()
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.chdir(job["cwd"])
    os.environ.clear()
    os.environ.update(job["environ"])
    files = os.devnull, job["out"], job["err"]
    for place, path in enumerate(files):
        os.dup2(os.open(path, os.O_WRONLY | os.O_APPEND if place else os.O_RDONLY), place)
    sys.argv = [distill3d.__main__.__file__, *job["argv"]]
    sys.modules["__main__"] = distill3d.__main__  # by which Lightning starts the other ranks
    code = 0
    try:
        exec(job["code"], {"__name__": "child"})
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        traceback.print_exc()
        code = 1
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)

def keep(job):
    pid = os.fork()
    if pid == 0:
        child(job)
    print(pid, flush=True)
    ended = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    with open(job["ended"] + ".new", "w") as file:
        file.write(str(ended))
    os.rename(job["ended"] + ".new", job["ended"])
    os._exit(0)

keepers = set()
for line in sys.stdin:
    keepers = {keeper for keeper in keepers if os.waitpid(keeper, os.WNOHANG)[0] == 0}
    keepers.add(keeper := os.fork())
    if keeper == 0:
        keep(json.loads(line))
"""
_MAIN = "import distill3d.__main__ as program; program.main()"


@functools.cache
def _server():
    """Start the process that the others are forked from; it ends with this one, whose pipe it reads."""
    pipe = subprocess.PIPE
    return subprocess.Popen([sys.executable, "-c", _SERVER], stdin=pipe, stdout=pipe, text=True)


class Forked:
    """A running ``distill3d`` in a session of its own; methods are those of `subprocess.Popen`.

    Args:
        argv: after the program's name.
        out: existing file that takes what is printed.
        err: likewise; None: the same.
        env: environment; None: this process's.
        code: what to run instead of the command line.
    """

    def __init__(self, *argv, out, err=None, env=None, code=_MAIN):
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


def run(*argv, code=_MAIN, seconds=240):
    """Run to the end in this folder and environment; returns exit code and output, as `subprocess.run` does."""
    with tempfile.TemporaryDirectory() as folder:
        out, err = Path(folder, "out"), Path(folder, "err")
        out.touch()
        err.touch()
        process = Forked(*argv, out=out, err=err, code=code)
        try:
            process.wait(seconds)
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
        return subprocess.CompletedProcess(["distill3d", *argv], process.returncode, out.read_text(), err.read_text())
