"""The command line in a process of its own, forked from one that has imported it all: seconds of imports less per test.

It is a real process with its own exit code, output and files. What a test says of signals, ranks or imports wants a
fresh interpreter: `launched`.
"""

import functools
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

_SERVER = """
import json, os, sys, traceback
import distill3d.__main__, distill3d.evaluation.run_scores, distill3d.evaluation.file_scores, distill3d.report.build
import distill3d.training.audit, distill3d.training.fit, distill3d.tracing.trace

def child(job):
    os.chdir(job["cwd"])
    os.environ.clear()
    os.environ.update(job["environ"])
    for place, path in ((0, os.devnull), (1, job["out"]), (2, job["err"])):
        os.dup2(os.open(path, os.O_RDONLY if place == 0 else os.O_WRONLY), place)
    sys.argv = ["distill3d", *job["argv"]]
    code = 0
    try:
        distill3d.__main__.main()
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        traceback.print_exc()
        code = 1
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)

for line in sys.stdin:
    pid = os.fork()
    if pid == 0:
        child(json.loads(line))
    print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)
"""


@functools.cache
def _server():
    """Start the process that the others are forked from; it ends with this one, whose pipe it reads."""
    pipe = subprocess.PIPE
    return subprocess.Popen([sys.executable, "-c", _SERVER], stdin=pipe, stdout=pipe, text=True)


def distill3d(*argv):
    """Run ``distill3d`` in this folder and environment; returns exit code and output, as `subprocess.run` does."""
    server = _server()
    with tempfile.TemporaryDirectory() as folder:
        out, err = Path(folder, "out"), Path(folder, "err")
        out.touch()
        err.touch()
        words = [str(word) for word in argv]
        job = {"argv": words, "cwd": str(Path.cwd()), "environ": dict(os.environ), "out": str(out), "err": str(err)}
        server.stdin.write(json.dumps(job) + "\n")
        server.stdin.flush()
        code = int(server.stdout.readline())
        return subprocess.CompletedProcess(["distill3d", *words], code, out.read_text(), err.read_text())
