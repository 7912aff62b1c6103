"""Processes that a trial started are found and ended, whoever is their parent."""

import os

import psutil
from launched import Launched

from distill3d.sweep import trial_process
from distill3d.sweep.machine import MARK, survivors


def test_what_a_killed_runner_left_is_ended_without_waiting_for_it_to_be_reaped(tmp_path, monkeypatch):
    monkeypatch.setattr(trial_process, "STOP_SECONDS", 600.0)  # longer than this test may take
    orphan = f"{MARK}={tmp_path} sleep 600 & exec sleep 601"  # whose parent will never ask for its exit code
    with Launched("bash", "-c", orphan, folder=tmp_path) as parent:
        parent.until(lambda: survivors(str(tmp_path)))
        assert trial_process.end_survivors(tmp_path) == 1
        assert survivors(str(tmp_path)) == []
        assert [child.status() for child in psutil.Process(parent.process.pid).children()] == [psutil.STATUS_ZOMBIE]


def test_a_mark_in_the_environment_finds_what_a_trial_started(tmp_path, monkeypatch):
    monkeypatch.setenv(MARK, str(tmp_path))
    with Launched("sleep", "600", folder=tmp_path) as sleeper:
        assert [found.pid for found in survivors(str(tmp_path))] == [sleeper.process.pid]
        assert survivors(str(tmp_path / "other")) == []
    assert os.getpid() not in [found.pid for found in survivors(str(tmp_path))]
