"""The process that `forked` has its commands from: all that they need is imported, and each is a fork of it.

A line on stdin says what to run, one on stdout gives the process's number.
"""

import json
import os
import signal
import sys
import traceback
from pathlib import Path

from lightning.fabric.utilities import rank_zero
from lightning.pytorch.strategies.launchers import subprocess_script

import distill3d.__main__
import distill3d.evaluation.file_scores
import distill3d.evaluation.run_scores
import distill3d.report.build
import distill3d.sweep.runner
import distill3d.tracing.trace
import distill3d.training.audit
import distill3d.training.fit


class Rank:
    """The other rank of a command on two devices: Lightning starts it by `Popen`, and it is a fork as the first one is.

    It is forked before the first one does anything, and waits for Lightning's command; without one it ends.
    """

    def __init__(self, job):
        read, self._command = os.pipe()
        self.pid, self.returncode = os.fork(), None
        if self.pid == 0:
            os.close(self._command)
            with os.fdopen(read) as file:
                text = file.read()
            if text:
                run(job | json.loads(text))
            os._exit(0)
        os.close(read)

    def Popen(self, command, env, cwd):  # noqa: N802 - it stands for the one of `subprocess`
        assert cwd is None
        assert command[1:3] == ["-m", "distill3d.__main__"]
        with os.fdopen(self._command, "w") as file:
            json.dump({"argv": command[3:], "environ": env}, file)
        return self

    def poll(self):
        if self.returncode is None and (ended := os.waitpid(self.pid, os.WNOHANG))[0]:
            self.returncode = os.waitstatus_to_exitcode(ended[1])
        return self.returncode

    def send_signal(self, signum):
        if self.poll() is None:
            os.kill(self.pid, signum)


def run(job):
    """Be the command, to its end."""
    os.environ.clear()
    os.environ.update(job["environ"])
    rank_zero.rank_zero_only.rank = rank_zero._get_rank() or 0  # read from the environment when Lightning is imported
    sys.argv = [distill3d.__main__.__file__, *job["argv"]]
    sys.modules["__main__"] = distill3d.__main__  # by which Lightning starts the other ranks
    code = 0
    try:
        exec(job["code"], {"__name__": "child"})  # noqa: S102 - of a test
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:  # noqa: BLE001 - as an interpreter ends
        traceback.print_exc()
        code = 1
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def child(job):
    """Leave the server's session and files, and be a command."""
    os.setsid()
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.chdir(job["cwd"])
    files = os.devnull, job["out"], job["err"]
    for place, path in enumerate(files):
        os.dup2(os.open(path, os.O_WRONLY | os.O_APPEND if place else os.O_RDONLY), place)
    if "trainer.devices=2" in job["argv"]:
        subprocess_script.subprocess = Rank(job)
    run(job)


def keep(job):
    """Be the parent of a command, and note how it ended."""
    pid = os.fork()
    if pid == 0:
        child(job)
    sys.stdout.write(f"{pid}\n")
    sys.stdout.flush()
    new = Path(job["ended"] + ".new")
    new.write_text(str(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])))
    new.rename(job["ended"])
    os._exit(0)


def serve():
    keepers = set()
    for line in sys.stdin:
        keepers = {keeper for keeper in keepers if os.waitpid(keeper, os.WNOHANG)[0] == 0}
        keepers.add(keeper := os.fork())
        if keeper == 0:
            keep(json.loads(line))


if __name__ == "__main__":
    serve()
