"""Prediction by several processes: the bytes of one process, whoever dies; and what is wrong is said in one line."""

import contextlib
import errno
import json
import re
import signal
import socket
import sys
from pathlib import Path
from types import SimpleNamespace
from unittest import mock

import numpy as np
import psutil
import pytest
from forked import MAIN, Forked, run
from launched import Launched, wait_for

from distill3d.errors import InputError, SomeFailedError, TrainingError
from distill3d.volumes import calls, cluster
from distill3d.volumes.cluster import workers
from distill3d.volumes.volume import Volume, write_volume

SMALL = """
from distill3d.training import blocks_on_disk, predict_large
from distill3d.volumes import prob
predict_large.CHUNKS = prob.CHUNKS = (8, 16, 16)
blocks_on_disk._REACH = 1
"""  # of the process that leads; it tells the others
CODE = f"{SMALL}\n{MAIN}"


def stack(path, shape=(20, 40, 70)):
    write_volume(path, Volume(np.random.default_rng(0).integers(1, 200, shape).astype(np.uint8), (2.0, 1.0, 1.0)))
    return path


def test_processes_share_the_cores_that_this_one_may_use(monkeypatch):
    monkeypatch.setattr("os.sched_getaffinity", lambda pid: {3, 5, 7}, raising=False)
    monkeypatch.setattr("os.cpu_count", lambda: 64)
    assert cluster._cores() == 3


def content(folder):
    """All files of a folder, which has at least one."""
    files = {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    assert files
    return files


@pytest.mark.parametrize(
    ("count", "scheduler", "line"),
    [
        (0, None, r"--workers 0; accepted: at least 1"),
        (2, "tcp://10.0.0.1:8786", r"--workers and --scheduler are both given; accepted: one of them"),
        (None, "10.0.0.1", r"--scheduler '10\.0\.0\.1' is no address; accepted: such as tcp://"),
        (None, "http://node:8787/status", r"--scheduler 'http://.*' is no address; accepted: such as tcp://"),
        (None, "", r"--scheduler '' is no address"),
    ],
)
def test_what_is_no_cluster_is_refused_in_one_line(count, scheduler, line):
    with pytest.raises(InputError, match=line), workers(count, scheduler):
        pass


def test_a_scheduler_that_does_not_answer_is_named(monkeypatch):
    monkeypatch.setattr(cluster, "_ANSWER_SECONDS", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"tcp://127.0.0.1:{silent.getsockname()[1]}"
        with pytest.raises(InputError, match=f"{address}: no Dask scheduler answers within"), workers(None, address):
            pass


def test_without_dask_the_error_says_what_to_install_and_one_process_needs_none(monkeypatch):
    monkeypatch.setitem(sys.modules, "distributed", None)
    with pytest.raises(InputError, match=r"need Dask; accepted: pip install 'distill3d\[cluster\]'"), workers(2):
        pass
    with workers() as none:
        assert none is None


def test_other_code_and_other_files_are_refused(monkeypatch, finished_once, tmp_path):
    from distill3d.training.networks import networks_of
    from distill3d.training.predict_elsewhere import _Seen

    worker = SimpleNamespace(address="tcp://10.0.0.2:1", name="2")
    monkeypatch.setattr("distributed.get_worker", lambda: worker)
    with pytest.raises(InputError, match=r"worker tcp://10\.0\.0\.2:1 runs distill3d .*; accepted: another, as here"):
        calls._call("another", b"", "run", 0, [])
    seen = _Seen(networks_of([finished_once]), "sha256:of another file")
    with pytest.raises(InputError, match=r"\.ckpt: a worker does not see what this process does; accepted: workers th"):
        seen.modules()


def test_a_cluster_that_is_gone_is_named_however_dask_says_so_and_a_file_that_a_worker_is_at_is_not_it():
    from distributed import CancelledError, Client, Future
    from distributed.client import ClosedClientError
    from distributed.comm import CommClosedError

    def result(error):
        call = mock.create_autospec(Future, instance=True)
        call.result.side_effect = error
        return calls.Workers(mock.create_autospec(Client), local=False, again="goes on").result(call)

    for error in (CancelledError(), ClosedClientError(), CommClosedError(), TimeoutError()):
        with pytest.raises(TrainingError, match=r"^the cluster is gone; the same command goes on$"):
            result(error)
    with pytest.raises(OSError, match="Connection timed out"):
        result(TimeoutError(errno.ETIMEDOUT, "Connection timed out"))


def test_workers_write_the_bytes_of_one_process_and_say_the_same_of_what_is_damaged(
    finished_once, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    files = [stack(Path("cell.zarr")), stack(Path("whole.tif"), (16, 33, 40)), stack(Path("damaged.zarr"))]
    chunk = max(files[2].rglob("*"), key=lambda path: path.stat().st_size if path.is_file() else 0)
    chunk.write_bytes(chunk.read_bytes()[:100])
    alone = run("predict", finished_once, *files, "--out", "alone", code=CODE)
    dealt = run("predict", finished_once, *files, "--out", "dealt", "--workers", "1", code=CODE)
    assert (dealt.returncode, dealt.stderr) == (alone.returncode, alone.stderr)
    assert alone.returncode == SomeFailedError.exit_code
    assert str(chunk) in alone.stderr
    assert alone.stderr.count("\n") == 1
    assert dealt.stdout.split() == ["dealt/cell_prob.zarr", "dealt/whole_prob.tif"]
    whole = [
        {path: data for path, data in content(Path(out)).items() if path.parts[0][0] != "."}
        for out in ("alone", "dealt")
    ]
    assert len(whole[0]) > 10
    assert whole[0] == whole[1]


@pytest.fixture(scope="module")
def large(finished_once, tmp_path_factory):
    """A stack of some hundred blocks and what one process writes of it."""
    folder = tmp_path_factory.mktemp("large")
    cell = stack(folder / "cell.zarr", (64, 160, 320))
    assert run("predict", finished_once, cell, "--out", folder / "alone", code=CODE).returncode == 0
    return cell, content(folder / "alone")


@contextlib.contextmanager
def halfway(run_folder, cell, out, *options):
    """Start a prediction; yields it and the file it prints to as soon as blocks are done."""
    printed = out.with_suffix(".txt")
    printed.touch()
    process = Forked("predict", run_folder, cell, "--out", out, *options, out=printed, code=CODE)
    try:
        wait_for(lambda: process.poll() is not None or any(out.glob(".*/done/*")), describe=printed.read_text)
        assert len(list(out.glob(".*/done/*"))) < 200
        yield process, printed
    finally:
        process.kill()


@contextlib.contextmanager
def begun(run_folder, cell, out, count):
    """Start a prediction by workers; yields it, them, and the file it prints to as soon as blocks are done."""
    with halfway(run_folder, cell, out, "--workers", count) as (process, printed):
        children = psutil.Process(process.pid).children()
        workers_of_it = [child for child in children if "spawn_main" in " ".join(child.cmdline())]
        assert len(workers_of_it) == count
        yield process, workers_of_it, printed


@pytest.mark.slow
def test_three_workers_of_which_one_is_killed_write_the_bytes_of_one_process(finished_once, large, tmp_path):
    cell, alone = large
    with begun(finished_once, cell, tmp_path / "out", 3) as (process, children, printed):
        children[1].kill()
        assert process.wait(250) == 0, printed.read_text()
    assert content(tmp_path / "out") == alone
    assert printed.read_text().startswith(f"{tmp_path / 'out' / 'cell_prob.zarr'}\n")  # Python warns of a semaphore


@pytest.mark.slow
@pytest.mark.parametrize(("signum", "code"), [(signal.SIGKILL, -9), (signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_workers_do_not_outlive_the_process_that_leads_and_another_goes_on(
    finished_once, large, tmp_path, signum, code
):
    cell, alone = large
    with begun(finished_once, cell, tmp_path / "out", 2) as (process, children, printed):
        for each in [process, *children] if signum == signal.SIGINT else [process]:  # as a terminal sends it
            each.send_signal(signum)
        assert process.wait(100) == code
        wait_for(lambda: not any(child.is_running() and child.status() != "zombie" for child in children), 60)
    said = "stopped; the same command goes on with what is missing\n"
    # Python's own tracker may name the semaphores of a process that was killed: two lines, of which this takes both
    tracked = re.compile(r".*resource_tracker: There appear to be \d+ leaked semaphore .*\n  warnings\.warn\(.*\n")
    assert tracked.sub("", printed.read_text()) == ("" if signum == signal.SIGKILL else said)
    again = run("predict", finished_once, cell, "--out", tmp_path / "out", code=CODE)
    assert "blocks were there already; goes on with the others" in again.stderr
    assert content(tmp_path / "out") == alone


def dask(folder, *arguments):
    """Start what a user of a cluster starts on its machines."""
    command = (sys.executable, "-m", "dask", *arguments, "--host", "127.0.0.1", "--no-dashboard")
    return Launched(*command, folder=folder)


@pytest.mark.slow
def test_a_cluster_of_which_a_worker_is_killed_writes_the_same_and_one_that_is_gone_is_named(
    finished_once, large, tmp_path
):
    cell, alone = large
    found = tmp_path / "scheduler.json"
    with contextlib.ExitStack() as stack:
        scheduler = stack.enter_context(dask(tmp_path, "scheduler", "--port", "0", "--scheduler-file", found))
        address = wait_for(lambda: found.exists() and json.loads(found.read_text())["address"])
        joins = ("worker", address, "--nthreads", "1", "--no-nanny")
        killed, _ = (stack.enter_context(dask(tmp_path, *joins)) for _ in range(2))
        with halfway(finished_once, cell, tmp_path / "out", "--scheduler", address) as (process, printed):
            killed.process.kill()
            assert process.wait(250) == 0, printed.read_text()
        assert printed.read_text() == f"{tmp_path / 'out' / 'cell_prob.zarr'}\n"
        assert content(tmp_path / "out") == alone
        with halfway(finished_once, cell, tmp_path / "again", "--scheduler", address) as (process, printed):
            scheduler.process.kill()
            assert process.wait(250) == 1, printed.read_text()
    assert printed.read_text() == "distill3d: the cluster is gone; the same command goes on with what is missing\n"
    again = run("predict", finished_once, cell, "--out", tmp_path / "again", code=CODE)
    assert "blocks were there already; goes on with the others" in again.stderr
    assert content(tmp_path / "again") == alone
