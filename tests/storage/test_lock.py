"""One process trains in a folder; a dead one holds nothing, and one whose folder is gone writes nothing."""

import os
import shutil
import signal

import pytest
from forked import Forked
from launched import wait_for

from distill3d.errors import InputError, TrainingError
from distill3d.storage.lock import NAME, FolderLock, seems_held
from distill3d.training import claim, fit

HOLD = """
import os, sys, time
from pathlib import Path
from distill3d.storage.lock import FolderLock

with FolderLock(Path(sys.argv[1])) as lock:
    lock.acquire()
    if os.fork():  # and a data worker, which lives on for seconds
        Path(sys.argv[2]).touch()
    time.sleep(60)
"""


@pytest.fixture
def holder(tmp_path):
    """A process that holds the folder of the tiny experiment, and one that it forked."""
    out, ready = tmp_path / "out.txt", tmp_path / "ready"
    out.touch()
    process = Forked(tmp_path / "runs" / "tiny" / "seed0", ready, out=out, code=HOLD)
    wait_for(ready.exists, 60, describe=out.read_text)
    yield process
    os.killpg(process.pid, signal.SIGKILL)


def test_a_second_process_is_refused_in_a_line_until_the_first_is_killed(holder, tmp_path, tiny):
    folder = tmp_path / "runs" / "tiny" / "seed0"
    for flags in ({}, {"resume": True}, {"overwrite": True}):
        with pytest.raises(InputError, match=f"seed0: process {holder.pid} on .* trains in it; accepted: ") as caught:
            fit.fit(tiny(), **flags)
        assert len(caught.value.lines) == 1
    holder.send_signal(signal.SIGKILL)
    holder.wait(60)
    with FolderLock(folder) as lock:
        lock.acquire()
        assert lock.is_held()
        with pytest.raises(InputError, match="trains in it"):  # nor in a second thread
            FolderLock(folder).acquire()
    assert not list(folder.iterdir())


def test_a_folder_that_cannot_be_written_is_refused_in_a_line(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match=r"seed0: cannot be written \(.*\); accepted: runs=PATH"):
        FolderLock(tmp_path / "file" / "seed0").acquire()


def test_a_lock_that_is_a_link_is_not_followed(tmp_path):
    (tmp_path / "precious").write_text("precious")
    (tmp_path / ".lock").symlink_to(tmp_path / "precious")
    with pytest.raises(InputError, match="cannot be written"):
        FolderLock(tmp_path).refuse_if_held()
    assert (tmp_path / "precious").read_text() == "precious"


def test_who_comes_while_a_run_is_finished_by_another_leaves_it_alone(finished, tiny):
    before = finished.metrics.stat().st_mtime_ns
    with pytest.raises(InputError, match="finished this run meanwhile"), FolderLock(finished.path) as lock:
        claim.take(finished, finished.read_config(), lock, resume=True, overwrite=False)
    assert (finished.metrics.stat().st_mtime_ns, finished.state) == (before, "done")


def test_to_overwrite_deletes_all_but_what_a_link_leads_to(finished, tmp_path):
    kept = tmp_path / "kept"
    kept.mkdir()
    (kept / "file").touch()
    (finished.path / "link").symlink_to(kept)
    settings = finished.read_config()
    with FolderLock(finished.path) as lock:
        claim.take(finished, settings, lock, resume=False, overwrite=True)
        assert sorted(path.name for path in finished.path.iterdir()) == [".lock", "config.yaml"]
    assert (kept / "file").exists()


def test_who_goes_on_deletes_what_a_killed_process_was_writing_and_nothing_else(finished):
    finished.done.unlink()
    parts = [finished.path / name for name in (".fit.json.12", "prob/.a.tif.12.partial", "swc/.a.swc.7.partial")]
    kept = {*finished.path.rglob("*")} | {finished.path / "figures" / ".keep.png"}
    for path in (*parts, finished.path / "figures" / ".keep.png"):
        path.parent.mkdir(exist_ok=True)
        path.touch()
    with FolderLock(finished.path) as lock:
        claim.take(finished, finished.read_config(), lock, resume=True, overwrite=False, trained=True)
        assert {*finished.path.rglob("*")} - {lock.path} >= kept
        assert not any(path.exists() for path in parts)


def test_what_is_known_of_former_weights_is_gone_before_other_processes_see_the_new_settings(finished, monkeypatch):
    settings = finished.read_config()
    settings["trainer"]["steps"] += 1
    seen = []
    monkeypatch.setattr(claim, "write_yaml", lambda *_: seen.append(finished.fit.exists() or finished.metrics.exists()))
    with FolderLock(finished.path) as lock:
        claim.take(finished, settings, lock, resume=True, overwrite=False)
    assert seen == [False]


def test_a_folder_that_was_removed_or_replaced_is_not_held(tmp_path):
    folder = tmp_path / "run"
    with FolderLock(folder) as lock:
        lock.acquire()
        lock.check()
        shutil.rmtree(folder)
        with pytest.raises(TrainingError, match="run: was removed while"):
            lock.check()
        with FolderLock(tmp_path / "other") as other:
            other.acquire()
            os.rename(other.folder, folder)  # noqa: PTH104
            with pytest.raises(TrainingError, match="run: was removed while"):
                lock.check()


def test_a_fit_whose_folder_is_removed_ends_in_a_line_and_leaves_no_half_folder(tiny, monkeypatch):
    experiment, terms = tiny(), fit.DistillModule.terms

    def remove(self, batch):
        if self.global_step == 2:
            shutil.rmtree(f"{experiment.runs}/tiny")
        return terms(self, batch)

    monkeypatch.setattr(fit.DistillModule, "terms", remove)
    with pytest.raises(TrainingError, match="seed0: was removed while it was trained in") as caught:
        fit.fit(experiment)
    assert "\n" not in str(caught.value)
    assert not os.path.exists(f"{experiment.runs}/tiny")  # noqa: PTH110


def test_whether_a_folder_seems_held_is_asked_without_locking(holder, tmp_path):
    path = tmp_path / "runs" / "tiny" / "seed0" / NAME
    assert seems_held(path)
    assert path.read_text().startswith(f"{holder.pid} on ")
    holder.send_signal(signal.SIGKILL)
    holder.wait(60)
    assert path.is_file()
    wait_for(lambda: not seems_held(path), 60)
    path.write_text(f"{os.getpid()} on another-machine")
    assert seems_held(path)  # who could know
    assert not seems_held(tmp_path / NAME)
