"""The dashboard: shows what goes on, makes a page only after files changed, answers nobody and nothing else."""

import http.client
import json
import re
import signal
import threading
import time

import pytest
from comparisons import write_curves
from launched import Command

from distill3d.errors import InputError
from distill3d.report.build import compare_places
from distill3d.report.comparison.compare import run_folders
from distill3d.report.live.dashboard import Dashboard, make_server, serve
from distill3d.report.live.scan import scan


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
