"""Runs in processes of their own to which something happens, and what of a run must not depend on it.

Where something happens is a moment, or the how-manieth file operation below a folder: a file opened for writing, a
folder made, a thing renamed or deleted. Both are counted in the process itself, so that a busy machine changes neither.
"""

import contextlib
import json
import os
import time
from dataclasses import dataclass

import numpy as np
import psutil
import torch
import yaml
from forked import Forked
from undrawn import UNDRAWN

from distill3d.config.plain import flatten
from distill3d.storage.curves import read_curves
from distill3d.storage.run_folder import RunFolder
from distill3d.training.reproduce import _may_differ

FAULTY = """
import errno, os, resource, signal, subprocess, sys, threading
how, at, victim, root, counted = os.environ["TEST_FAULT"].split("|")
at, victim, counted, done = float(at), int(victim), os.open(counted, os.O_WRONLY | os.O_APPEND), 0
OPERATIONS = {"open", "os.mkdir", "os.rename", "os.remove", "os.rmdir"}
WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT

def happen(event):
    if how.startswith("SIG"):
        os.kill(os.getpid(), getattr(signal, how))
    elif how == "full":  # no file grows; what is printed goes to a pipe, which is none
        resource.setrlimit(resource.RLIMIT_FSIZE, (0, resource.RLIM_INFINITY))
    elif event in ("open", "os.mkdir"):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

def watch(event, words):
    global done
    if event not in OPERATIONS or not isinstance(words[0], (str, bytes, os.PathLike)):
        return
    if (event == "open" and not words[2] & WRITES) or not os.path.abspath(os.fsdecode(words[0])).startswith(root):
        return
    done += 1
    if how != "full" or done < at:  # then not even this can be written
        os.write(counted, b".")
    if done == at or (done > at > 0 and how == "shut"):
        happen(event)

if int(os.environ.get("LOCAL_RANK", 0)) == victim:
    if how in ("full", "shut"):
        printing = subprocess.Popen(["cat"], stdin=subprocess.PIPE)
        os.dup2(printing.stdin.fileno(), 1)
        os.dup2(printing.stdin.fileno(), 2)
        printing.stdin.close()
    if at >= 0:
        sys.addaudithook(watch)
    else:
        waits = threading.Timer(-at, happen, ["moment"])
        waits.daemon = True
        waits.start()
""" + UNDRAWN  # fmt: skip
LIMIT = 30.0  # seconds, in which nothing of a run is left
OLD = 2 * 86_400  # seconds: by then what a killed process left in a shared cache is swept
_UNTOLD = {"StepClock", "current_score"}  # of a checkpoint: times, and what Lightning saves but never reads
KILLED = {"SIGKILL": {-9}, "SIGTERM": {143, -15}}


@dataclass
class Trained:
    """How a process that trained ended.

    Attributes:
        code: of its exit.
        printed: by it and its other rank.
        operations: of files, that it did.
        seconds: it took.
    """

    code: int
    printed: str
    operations: int
    seconds: float


class Place:
    """A folder in which one experiment is run, with a cache and a temporary folder of its own."""

    def __init__(self, folder, file, settings):
        self.folder, self.run = folder, RunFolder(folder / "runs" / file.stem / "seed0")
        self._words = ("fit", file, *settings, f"runs={folder / 'runs'}", f"cache={folder / 'cache'}")
        (folder / "temporary").mkdir(parents=True)

    def train(self, *flags, how="none", at=0.0, victim=0):
        """Train to the end, or to what happens after ``-at`` seconds or at operation ``at``."""
        out, counted = self.folder / "printed.txt", self.folder / "operations.txt"
        out.write_text("")
        counted.write_text("")
        fault = f"{how}|{at}|{victim}|{self.folder}{os.sep}|{counted}"
        env = os.environ | {"TMPDIR": str(self.folder / "temporary"), "TEST_FAULT": fault}
        process = Forked(*self._words, *flags, out=out, env=env, code=FAULTY)
        started = time.monotonic()  # the first one starts the process that all are forked from
        try:
            code = process.wait(600)
            seconds = time.monotonic() - started
            _wait_until_gone(process.pid)
        finally:
            process.kill()
        return Trained(code, out.read_text(), counted.stat().st_size, seconds)

    def resume(self):
        """Go on a day later, when nobody can still be writing what the dead process was."""
        for path in self.folder.glob("cache/**/.*.partial"):
            os.utime(path, (time.time() - OLD, time.time() - OLD))
        return self.train("--resume")

    def files(self):
        """Every file and empty folder, but for curves, of which a resumed run has a folder per start, and TMPDIR.

        A process that is killed between making a folder there and noting it can leave it, empty, for the system.
        """
        paths = [path for path in self.folder.rglob("*") if path.is_file() or not any(path.iterdir())]
        names = {str(path.relative_to(self.folder)) for path in paths}
        return {name for name in names if "/curves/" not in name and not name.startswith("temporary")}

    def results(self):
        """All that a run and its cache hold, without times, machine and places: a name and a value each."""
        results = {"curves": {key: value for key, value in read_curves(self.run.path).items() if "time" not in key}}
        for name in self.files():
            if name.startswith(("runs", "cache")):
                results[name] = _content(self.folder / name, str(self.folder))
        return results


def _content(path, place):
    if path.is_dir():
        return None
    if path.suffix == ".json":
        return {key: value for key, value in flatten(json.loads(path.read_text())).items() if _is_result(path, key)}
    if path.suffix == ".yaml":
        return {key: value for key, value in yaml.safe_load(path.read_text()).items() if key not in {"runs", "cache"}}
    if path.suffix == ".ckpt":
        return _plain(torch.load(path, weights_only=True), place)
    if path.suffix == ".npz":
        with np.load(path) as file:
            return {name: file[name].tobytes() for name in file.files}
    return path.read_bytes()


def _is_result(path, key):
    return path.name != "done.json" and key != "cost.data_wait_share" and not _may_differ(key)


def _plain(value, place):
    """Make tensors comparable by ``==``, and leave places and times out."""
    if isinstance(value, torch.Tensor):
        return value.dtype, tuple(value.shape), value.numpy().tobytes()
    if isinstance(value, dict):
        return {_plain(key, place): _plain(each, place) for key, each in value.items() if key not in _UNTOLD}
    if isinstance(value, (list, tuple)):
        return tuple(_plain(each, place) for each in value)
    return value.replace(place, "") if isinstance(value, str) else value


def _wait_until_gone(group):
    """Wait for all processes of a session; those that nobody has reaped yet are gone."""
    deadline = time.monotonic() + LIMIT
    while left := [process for process in psutil.process_iter() if _runs(process, group)]:
        assert time.monotonic() < deadline, left
        time.sleep(0.05)


def _runs(process, group):
    with contextlib.suppress(psutil.Error, OSError):
        return os.getpgid(process.pid) == group and process.status() != psutil.STATUS_ZOMBIE
    return False
