"""The dashboard: shows what goes on, makes a page only after files changed, answers nobody and nothing else."""

import contextlib
import http.client
import json
import os
import re
import signal
import socket
import struct
import subprocess
import threading
import time

import pytest
from comparisons import write_curves
from launched import Command, wait_for
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from distill3d.errors import InputError
from distill3d.report.build import compare_places
from distill3d.report.comparison.compare import run_folders
from distill3d.report.live.dashboard import MOST_CLIENTS, Dashboard, make_server, serve
from distill3d.report.live.scan import live_runs, scan
from distill3d.report.live.sweeps import live_sweeps


def build(folders):
    comparison = compare_places(folders)
    return comparison, run_folders(comparison)


@pytest.fixture
def runs(tmp_path, write_run):
    """Three finished runs of each of two arms, with curves."""
    for seed in range(3):
        for name, strategy in (("scratch", "none"), ("kd", "features")):
            folder = write_run(name, seed, settings={"strategy": {"name": strategy}})
            write_curves(folder, seed=seed)
    return tmp_path / "runs"


@pytest.fixture
def dashboard(runs, monkeypatch):
    monkeypatch.setattr("distill3d.report.live.dashboard.FRESH", 0.0)  # files of a test change faster than people look
    return Dashboard(runs, build=build)


@pytest.fixture
def server(dashboard):
    running = make_server(dashboard, port=0)
    thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    yield running
    running.shutdown()
    running.server_close()
    thread.join()


def ask(server, path="/", method="GET", **headers):
    connection = http.client.HTTPConnection(*server.server_address, timeout=60)
    connection.request(method, path, headers=headers)
    answer = connection.getresponse()
    body = answer.read()
    connection.close()
    return answer, body


def unfinished(write_run, runs, name="kd", seed=7, steps=120):
    folder = write_run(name, seed, done=False, settings={"trainer.steps": 240})
    write_curves(folder, seed=seed, steps=steps)
    return folder


def test_the_page_compares_finished_runs_and_shows_how_far_the_others_are(dashboard, runs, write_run):
    unfinished(write_run, runs)
    page = dashboard.page().decode()
    assert "2 arms, 6 runs" in page
    assert "kd/seed7" in page
    assert re.search(r"Step 120\s+of 240", page)
    figures = json.loads(re.search(r'id="figures">(.*?)</script>', page)[1])
    assert [trace["name"] for trace in figures["live-0"]["data"]] == ["validation Dice", "training loss, weighted sum"]
    assert "curve-0" in figures


def trial(write_run, root, number, *, dice=None, step=120, running=False, **arguments):
    """Write a trial of a sweep: finished with this Dice, or at a step."""
    place = root / "sweeps" / "lr" / "trials" / number
    folder = write_run("unet", 0, root=place, dice=None if dice is None else {"case_0": dice}, done=dice is not None)
    if dice is None:
        write_curves(folder, steps=step)
        (folder / "metrics.json").unlink(missing_ok=True)
    (place / "arguments.json").write_text(json.dumps(arguments))
    if running:
        (folder / ".lock").write_text("1 on here")
    return folder


def test_a_sweep_has_a_table_of_its_trials_the_best_first_and_they_take_part_in_no_comparison(
    dashboard, runs, write_run
):
    trial(write_run, runs, "0000", dice=0.5, lr=0.01)
    trial(write_run, runs, "0001", dice=0.75, lr=0.001)
    going = trial(write_run, runs, "0002", running=True, lr=0.1)
    trial(write_run, runs, "0003", lr=1)
    (runs / "sweeps" / "lr" / "trials" / "0004").mkdir()
    (runs / "sweeps" / "lr" / "sweep.yaml").write_text("metric: {name: test/dice, goal: maximize}")
    seen = scan(runs)
    (sweep,) = live_sweeps(seen.trials, runs)
    rows = [(t.number, t.state, t.value and round(t.value, 6), t.settings) for t in sweep.trials]
    assert rows == [
        ("0001", "finished", 0.75, "lr=0.001"),
        ("0000", "finished", 0.5, "lr=0.01"),
        ("0002", "running", None, "lr=0.1"),
        ("0003", "stopped", None, "lr=1"),
        ("0004", "no run", None, ""),
    ]
    assert sweep.summary == "5 trials so far, 2 finished, 1 running, 1 stopped, 1 no run"
    assert re.fullmatch(r"step 120 of \d+, validation Dice 0\.\d{3}", sweep.trials[2].progress)
    assert (len(seen.finished), len(seen.trials), len(seen.running)) == (6, 4, 2)
    page = dashboard.page().decode()
    assert "2 arms, 6 runs" in page
    assert "5 trials so far" in page
    (runs / "sweeps" / "lr" / "sweep.yaml").write_text("metric: {name: train/loss, goal: minimize}")
    (again,) = live_sweeps(seen.trials, runs)
    values = [t.value for t in again.trials if t.value is not None]
    assert values == sorted(values) != []
    (runs / "sweeps" / "lr" / "sweep.yaml").write_text("metric: {name: test/dice}")  # to W&B and the runner: minimize
    (lowest,) = live_sweeps(seen.trials, runs)
    assert [t.number for t in lowest.trials][:2] == ["0000", "0001"]
    (going / "done.json").write_text("{}")
    assert scan(runs).state != seen.state


def test_a_trial_that_is_killed_is_stopped_though_no_file_changed(dashboard, runs, write_run):
    folder = trial(write_run, runs, "0000", lr=0.1)
    with subprocess.Popen(["sleep", "60"]) as process:
        (folder / ".lock").write_text(f"{process.pid} on {socket.gethostname()}")
        before = dashboard.state()
        assert "1 trials so far, 1 running" in dashboard.page().decode()
        process.kill()
    assert dashboard.state() != before
    assert "1 trials so far, 1 stopped" in dashboard.page().decode()


def test_a_run_that_goes_on_says_how_long_its_parts_and_what_it_saw_last(runs, write_run):
    folder = unfinished(write_run, runs)
    notes = PngInfo()
    notes.add_text("case", "OP_6")
    notes.add_text("step", "120")
    Image.new("L", (60, 20), 99).save(folder / "validation.png", pnginfo=notes)
    os.utime(folder / "curves" / "from_step0" / "metrics.csv", (6000, 6000))
    os.utime(folder / "config.yaml", (2000, 2000))
    os.utime(folder / "curves" / "from_step0", (2400, 2400))
    (run,) = live_runs([folder.resolve()], runs)
    assert run.left == "about 60 min left"  # 120 steps took an hour
    assert run.tags == ("neurons", "convnet3d")
    assert run.seen.alt == "Validation patch of OP_6, step 120: image, gold, probability"
    assert (run.seen.width, run.seen.height) == (60, 20)
    (folder / "validation.png").write_bytes(b"no picture")
    os.utime(folder / "curves" / "from_step0", (6000, 6000))
    (run,) = live_runs([folder.resolve()], runs)
    assert (run.left, run.seen) == ("", None)


def test_a_folder_without_finished_runs_has_a_page_too(tmp_path, write_run):
    folder = tmp_path / "runs"
    folder.mkdir()
    board = Dashboard(folder, build=build)
    assert "Nothing is running" in board.page().decode()
    unfinished(write_run, folder)
    time.sleep(0.6)
    page = board.page().decode()
    assert "no finished run yet" in page
    assert "kd/seed7" in page


def test_runs_that_cannot_be_compared_are_told_and_the_page_stays_up(dashboard, runs, write_run):
    for folder in runs.glob("scratch/*"):
        (folder / "config.yaml").write_text((runs / "kd" / "seed0" / "config.yaml").read_text())
    (runs / "kd" / "seed0" / "metrics.json").write_text("{")
    page = dashboard.page().decode()
    assert "metrics.json" in page
    assert 'class="tag unfair"' in page


def test_the_page_is_made_again_only_after_a_file_changed(dashboard, runs, write_run, monkeypatch):
    made = []
    monkeypatch.setattr(
        "distill3d.report.live.dashboard.render", lambda *_, **how: made.append(how["live"].state) or "page"
    )
    built = []
    dashboard.build = lambda folders: built.append(len(folders)) or build(folders)
    for _ in range(3):
        dashboard.page()
    assert (len(made), built) == (1, [6])
    going_on = unfinished(write_run, runs)
    dashboard.page()
    assert (len(made), built) == (2, [6])  # what is finished is not compared anew
    write_curves(going_on, first_step=120)
    dashboard.page()
    assert (len(made), built) == (3, [6])
    write_run("kd", 3, settings={"strategy": {"name": "features"}})
    dashboard.page()
    assert (len(made), built) == (4, [6, 7])
    assert len(set(made)) == 4
    dashboard.page()
    assert len(made) == 4


def test_the_state_of_the_server_is_the_one_the_page_was_made_of(server):
    page = ask(server)[1].decode()
    state = ask(server, "/state")[1].decode()
    assert f'data-live="{state}"' in page


def test_a_dashboard_reads_and_writes_nothing_under_runs(server, runs):
    before = {path: path.stat().st_mtime_ns for path in runs.rglob("*")}
    ask(server)
    ask(server, "/state")
    assert {path: path.stat().st_mtime_ns for path in runs.rglob("*")} == before


def test_a_head_has_the_headers_of_a_get_and_no_body(server):
    got, body = ask(server)
    head, nothing = ask(server, method="HEAD")
    assert (got.status, head.status, nothing) == (200, 200, b"")
    assert head.getheader("Content-Length") == str(len(body))
    assert head.getheader("X-Content-Type-Options") == "nosniff"
    assert head.getheader("Cache-Control") == "no-store"


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "MOVE"])
def test_nothing_but_get_and_head_is_answered(server, method):
    answer, _ = ask(server, method=method)
    assert (answer.status, answer.getheader("Allow")) == (405, "GET, HEAD")


@pytest.mark.parametrize(
    "path",
    [
        "/../../../../etc/passwd",
        "/%2e%2e/%2e%2e/etc/passwd",
        "/..%2f..%2fetc/passwd",
        "//etc/passwd",
        "/kd/seed0/config.yaml",
        "/state/../kd/seed0/config.yaml",
        "/link/secret.txt",
        "/?x=1",
        "/state%00",
    ],
)
def test_no_path_of_a_request_reaches_a_file(server, path):
    answer, body = ask(server, path)
    assert (answer.status, body) == (404, b"Accepted: / and /state\n")


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:{port}", "127.0.0.1", "127.0.0.1:1", "127.0.0.1.evil:{port}", ""]
)
def test_a_name_of_somebody_else_that_points_here_is_refused(server, host):
    for path in ("/", "/state"):
        answer, body = ask(server, path, Host=host.format(port=server.server_port))
        assert answer.status == 421
        assert b"kd" not in body


def test_both_names_of_this_machine_are_answered(server):
    for host in ("127.0.0.1", "localhost", "LOCALHOST"):
        assert ask(server, "/state", Host=f"{host}:{server.server_port}")[0].status == 200


def test_it_listens_on_this_machine_only(server):
    assert server.server_address[0] == "127.0.0.1"


def test_a_run_that_links_outside_is_left_out_and_named(dashboard, runs, tmp_path, write_run):
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "metrics.json").write_text('{"secret": 1}')
    inside = write_run("kd", 4, settings={"strategy": {"name": "features"}})
    (inside / "metrics.json").unlink()
    (inside / "metrics.json").symlink_to(outside / "metrics.json")
    elsewhere = write_run("secret", 0, root=outside)
    (runs / "linked").symlink_to(elsewhere.parent)
    scanned = scan(runs)
    assert scanned.refused == (inside.resolve(),)
    assert len(scanned.finished) == 6
    page = dashboard.page().decode()
    assert "seed4: links to a place outside" in page
    assert "secret" not in page.split('id="figures"')[0]


def test_a_link_within_the_runs_is_no_reason_to_refuse(runs):
    (runs / "kd" / "seed0" / "best.json").symlink_to(runs / "kd" / "seed1" / "metrics.json")
    assert scan(runs).refused == ()


def test_a_folder_that_is_not_there_and_a_port_that_is_taken_are_said_in_a_line(tmp_path, server, dashboard):
    with pytest.raises(InputError, match="no such folder"):
        Dashboard(tmp_path / "nowhere", build=build)
    with pytest.raises(InputError, match="accepted: --port"):
        make_server(dashboard, port=server.server_port)
    with pytest.raises(InputError, match="no such folder"):
        serve(tmp_path / "nowhere", port=0, build=build)


def test_ctrl_c_ends_it_with_130_and_no_traceback(runs, tmp_path):
    address = r"http://127\.0\.0\.1:\d+/ .*\n"
    with Command("dashboard", runs, "--port", 0, folder=tmp_path) as process:
        process.until(lambda: re.match(address, process.printed))
        process.process.send_signal(signal.SIGINT)
        assert process.wait() == 130
        assert re.fullmatch(address, process.printed)


def test_help_names_the_dashboard(capsys):
    from distill3d.cli import app

    with pytest.raises(SystemExit) as ended:
        app(["dashboard", "--help"])
    assert ended.value.code == 0
    assert "127.0.0.1" in capsys.readouterr().out


# ------------------------------------------------------------ clients that do not behave

REQUEST = b"GET %s HTTP/1.1\r\nHost: 127.0.0.1:%d\r\n\r\n"
RESET = struct.pack("ii", 1, 0)


def connected(server):
    return socket.create_connection(server.server_address, timeout=20)


def answers_and_says_nothing(server, capsys):
    status = ask(server, "/state")[0].status
    printed = capsys.readouterr()
    return (status, printed.out, printed.err) == (200, "", "")


@pytest.mark.parametrize(
    "sent",
    [
        b"",
        b"GET / HT",
        b"GET / HTTP/1.1\r\nHost: 127",
        REQUEST % (b"/", 1),
        REQUEST,
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(500),  # TLS
        b"GET /" + b"a" * 100_000 + b" HTTP/1.1\r\n\r\n",
        b"GET / HTTP/1.1\r\n" + b"X: y\r\n" * 5_000,
        b"GET / HTTP/1.1\r\nX: " + b"y" * 200_000,
        b"POST / HTTP/1.1\r\nContent-Length: 9999999\r\n\r\n" + b"z" * 200_000,
        b"\r\n" * 1_000,
    ],
)
def test_a_client_that_hangs_up_or_talks_nonsense_is_dropped_without_a_word(
    server, dashboard, capsys, monkeypatch, sent
):
    monkeypatch.setattr(dashboard, "page", lambda: bytes(30_000_000))  # more than the sockets' buffers hold
    for linger in (True, False):
        client = connected(server)
        with contextlib.suppress(ConnectionError):  # it was refused while it was still talking
            client.sendall(sent % (b"/", server.server_port) if sent is REQUEST else sent)
        if linger:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
        client.close()
    assert answers_and_says_nothing(server, capsys)
    threads = [thread for thread in threading.enumerate() if "process_request_thread" in thread.name]
    wait_for(lambda: not any(thread.is_alive() for thread in threads), 20)
    assert capsys.readouterr().err == ""


def test_an_address_beyond_all_measure_is_refused(server):
    answer, _ = ask(server, "/" + "a" * 70_000)
    assert answer.status == 414


def test_clients_that_wait_for_ever_make_room_for_others(server, capsys):
    waiting = [connected(server) for _ in range(MOST_CLIENTS + 6)]
    for client in waiting:
        client.sendall(b"GET / HT")
    assert answers_and_says_nothing(server, capsys)
    assert waiting[0].recv(1) == b""  # the first has been dropped
    waiting[-1].sendall(b"TP/1.1\r\nHost: 127.0.0.1:%d\r\n\r\n" % server.server_port)
    assert waiting[-1].recv(15).startswith(b"HTTP/1.0 200")  # the last has not
    for client in waiting:
        client.close()


def test_a_client_that_reads_slowly_keeps_nobody_waiting(server, dashboard, monkeypatch):
    monkeypatch.setattr(dashboard, "page", lambda: bytes(30_000_000))
    with connected(server) as slow:
        slow.sendall(REQUEST % (b"/", server.server_port))
        assert slow.recv(100)
        assert ask(server, "/state")[0].status == 200


def test_a_file_that_cannot_be_read_is_said_to_the_client_and_not_to_the_terminal(
    server, dashboard, monkeypatch, capsys
):
    def page():
        raise PermissionError(13, "Permission denied", "kd/seed0")

    monkeypatch.setattr(dashboard, "page", page)
    answer, body = ask(server)
    assert (answer.status, b"Permission denied" in body) == (500, True)
    assert answers_and_says_nothing(server, capsys)


def test_a_run_that_wandb_logged_is_shown(runs, tmp_path):
    logs = runs / "kd" / "seed0" / "wandb" / "run" / "logs"
    logs.mkdir(parents=True)
    (logs / "debug-core.log").symlink_to(tmp_path / "cache" / "core.log")  # as W&B leaves it
    assert scan(runs).refused == ()
