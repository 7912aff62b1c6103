"""The processes of one training end together, however one of them ends, and say why once. Real processes, tiny runs."""

import os
import signal
import sys
import threading
import time
from types import SimpleNamespace

import psutil
import pytest
import torch
from forked import Forked
from launched import Command, wait_for

from distill3d.data.workers import begin_worker
from distill3d.errors import InputError, TrainingError
from distill3d.storage import parent
from distill3d.storage.run_folder import RunFolder
from distill3d.training import ranks

FAULTY = """
import os, signal
from lightning.fabric.utilities.rank_zero import rank_zero_only
import distill3d.__main__ as program
from distill3d.errors import NumbersError
from distill3d.training.module import DistillModule

terms = DistillModule.terms

def faulty(self, batch):
    if self.global_step == 2 and rank_zero_only.rank == RANK:
        FAULT
    return terms(self, batch)

DistillModule.terms = faulty
program.main()
"""
LIMIT = 30.0  # seconds, in which nothing is left


class Two(Command):
    """A training in two processes, in one of which something happens at the third step."""

    def __init__(self, *argv, rank, fault, folder):
        self._code = FAULTY.replace("RANK", str(rank)).replace("FAULT", fault)
        super().__init__("fit", *argv, "trainer.devices=2", "patches.batch_size=1", folder=folder)

    def _start(self, argv, env):
        return Forked(*argv, out=self.log, env=env, code=self._code)

    def end(self):
        super().end()
        self.process.kill()  # what a failed test leaves: a forked rank bears no mark


def test_nothing_outlives_a_leader_that_is_killed(tiny_file, tmp_path):
    last = RunFolder(tmp_path / "runs" / "tiny" / "seed0").last
    arguments = ("trainer.steps=4000", "patches.workers=1", "logging.wandb=offline")
    waits = "signal.pause()"  # as for a collective in native code: it notices nothing by itself
    with Two(tiny_file, *arguments, rank=1, fault=waits, folder=tmp_path) as training:
        training.until(last.is_file)
        started = psutil.Process(training.process.pid).children(recursive=True)
        names = " ".join(process.name() for process in started)
        assert len(started) >= 4, names  # the other rank, two data workers, W&B's service
        assert "wandb" in names
        training.process.send_signal(signal.SIGKILL)
        wait_for(lambda: not any(_runs(process) for process in started), LIMIT, describe=lambda: training.printed)
    assert "Traceback" not in training.printed


def _runs(process):
    try:
        return process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


@pytest.mark.parametrize(
    ("rank", "fault", "lines"),
    [
        (1, "raise NumbersError('of its own')", ["of its own", "process 2 of 2 ended with exit code 1; its own error"]),
        (0, "raise NumbersError('of its own')", ["of its own"]),
    ],
)
def test_a_process_that_fails_ends_the_run_with_its_error_and_exit_1(tiny_file, tmp_path, rank, fault, lines):
    with Two(tiny_file, rank=rank, fault=fault, folder=tmp_path) as training:
        assert training.wait(LIMIT) == 1, training.printed
    printed = training.printed.splitlines()
    assert [line.partition(": ")[2].startswith(text) for line, text in zip(printed, lines, strict=True)] == [
        True
    ] * len(lines), training.printed


# ------------------------------------------------------------ the parts


CHILD = """
import os, sys, time
from pathlib import Path
from distill3d.storage.parent import LEADER, end_with_leader, leading

way, file = sys.argv[1], Path(sys.argv[2])
with leading():
    environment = os.environ[LEADER]
    if os.fork():
        time.sleep(0.2)
        os._exit(0)
if way != "free":
    os.environ[LEADER] = environment
if way == "late":  # the leader is gone before its child asks the kernel
    time.sleep(0.4)
if way == "thread":  # of the leader, beside the main one: the kernel would not do
    os.environ[LEADER] += "1"
end_with_leader()
file.write_text(str(os.getpid()))
time.sleep(1.6)
file.write_text("survived")
"""


@pytest.mark.parametrize(("way", "left"), [("kernel", ""), ("thread", ""), ("late", ""), ("free", "survived")])
def test_a_child_ends_with_its_leader_and_nobody_elses(tmp_path, way, left):
    out, file = tmp_path / "out.txt", tmp_path / "pid"
    out.touch()
    process = Forked(way, file, out=out, code=CHILD)
    assert process.wait(60) == 0, out.read_text()
    if way == "late":
        time.sleep(0.6)
        assert not file.exists()
    elif left:
        wait_for(lambda: file.exists() and file.read_text() == left, 20, describe=out.read_text)
    else:
        pid = int(wait_for(lambda: file.exists() and file.read_text(), 20, describe=out.read_text))
        wait_for(lambda: not psutil.pid_exists(pid), 20)
        assert file.read_text() == str(pid)


def test_the_leaders_number_is_in_the_environment_of_its_children_alone():
    with parent.leading():
        assert os.environ[parent.LEADER] == f"{os.getpid()}.{threading.get_native_id()}"
    assert parent.LEADER not in os.environ


def trainer(*, world=2, leader=True, codes=()):
    launcher = object.__new__(ranks.RankLauncher)
    launcher.procs = [SimpleNamespace(poll=lambda code=code: code) for code in codes]
    return SimpleNamespace(world_size=world, is_global_zero=leader, strategy=SimpleNamespace(launcher=launcher))


GONE = RuntimeError("[gloo/transport/tcp/pair.cc:534] Connection closed by peer [127.0.0.1]:1\nand\nmore")


@pytest.mark.parametrize(
    ("error", "of", "shown"),
    [
        (ValueError("own"), trainer(), "own"),
        (GONE, trainer(world=1), str(GONE)),
        (InputError("own"), trainer(codes=[1]), "own"),
        (
            GONE,
            trainer(codes=[None, -9]),
            "process 3 of 3 was killed by SIGKILL; its own error is above, if it had one",
        ),
        (GONE, trainer(codes=[2]), "process 2 of 2 ended with exit code 2; its own error is above, if it had one"),
        (torch.distributed.DistBackendError("NCCL"), trainer(), "another process of this training is gone (NCCL); its"),
        (GONE, trainer(leader=False), "1"),  # nothing: the others say why
    ],
)
def test_only_the_process_that_failed_says_why(error, of, shown, monkeypatch):
    monkeypatch.setattr(ranks, "GRACE_SECONDS", 0.0)
    raised = ranks.only_once(of, error)
    assert str(raised).startswith(shown)
    assert (raised is error) == (shown == str(error))
    assert isinstance(raised, (type(error), TrainingError, SystemExit))


def test_a_data_worker_says_nothing_of_a_process_that_was_killed(monkeypatch):
    shown = []
    monkeypatch.delenv("PL_SEED_WORKERS", raising=False)
    monkeypatch.setattr(sys, "excepthook", lambda kind, *_: shown.append(kind))
    begin_worker(0)
    for error in (ConnectionResetError(), EOFError(), ValueError()):
        sys.excepthook(type(error), error, None)
    assert shown == [ValueError]


def test_a_process_that_waits_in_native_code_for_a_dead_one_is_ended(monkeypatch, capsys):
    ended = []
    monkeypatch.setattr(ranks, "GRACE_SECONDS", 0.0)
    monkeypatch.setattr(ranks, "LOOK_SECONDS", 0.0)
    monkeypatch.setattr(os, "_exit", ended.append)
    launcher = trainer(codes=[-9]).strategy.launcher
    launcher.kill = lambda signum: over.set()
    over = threading.Event()
    launcher._watch(over)
    assert ended == [1]
    assert capsys.readouterr().err.startswith("distill3d: process 2 of 2 was killed by SIGKILL")


def test_a_process_whose_leaders_store_answers_no_more_is_ended(monkeypatch):
    ended = []
    monkeypatch.setattr(ranks, "BEAT_SECONDS", 0.0)
    watch = ranks.LeaderWatch()

    class Store:
        asked = 0

        def check(self, _keys):
            self.asked += 1
            if self.asked == 3:
                raise torch.distributed.DistNetworkError("Connection reset by peer")

    monkeypatch.setattr(os, "_exit", lambda code: ended.append(code) or watch.on_train_end(None, None))
    watch._watch(store := Store())
    assert (ended, store.asked) == ([1], 3)
