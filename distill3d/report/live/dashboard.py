"""The page of a folder of runs while they go on, on this machine only. It reads files; it changes and serves none.

Two addresses exist: the page, and a digest of what it was made of, which the page asks for. No path of a request is
ever joined to a folder.
"""

from __future__ import annotations

import dataclasses
import functools
import threading
import time
from collections.abc import Callable, Mapping
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, NamedTuple, final

from distill3d.errors import InputError, UserError
from distill3d.report.content import Comparison
from distill3d.report.live.scan import Scan, live_runs, scan
from distill3d.report.page.curves import TermChart, curve_charts
from distill3d.report.page.html import render
from distill3d.report.page.live import Live
from distill3d.report.page.worst import Worst, worst_cases

ADDRESS = "127.0.0.1"
FRESH = 0.5  # seconds a look at the folder is good for
HEADERS = {
    "Cache-Control": "no-store",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
}
Build = Callable[[tuple[Path, ...]], tuple[Comparison, Mapping[str, tuple[Path, ...]]]]


@final
class _Finished(NamedTuple):
    """What finished runs give: dear to build, so built once for a state."""

    state: str
    comparison: Comparison
    curves: tuple[TermChart, ...]
    worst: Worst
    problem: str


@final
class Dashboard:
    """The page of a folder of runs, made again only after files changed; safe with several threads.

    Args:
        runs: the folder.
        build: from finished run folders to what is compared, and arm -> run folders.
        every: seconds between two looks of the page for changes.

    Raises:
        InputError: there is no such folder.
    """

    def __init__(self, runs: Path, *, build: Build, every: float = 5.0) -> None:
        if not runs.is_dir():
            raise InputError(f"{runs}: no such folder; accepted: a folder that holds runs, such as runs/")
        self.runs, self.build, self.every = runs, build, every
        self._lock = threading.Lock()
        self._seen: tuple[float, Scan] | None = None
        self._finished: _Finished | None = None
        self._page = ("", b"")

    def state(self) -> str:
        """Return a digest that changes whenever the page would."""
        return self._scan().state

    def page(self) -> bytes:
        """Return the page of what is there now."""
        with self._lock:
            seen = self._scan()
            if self._page[0] != seen.state:
                self._page = seen.state, self._render(seen).encode()
            return self._page[1]

    def _scan(self) -> Scan:
        if self._seen is None or time.monotonic() - self._seen[0] > FRESH:
            self._seen = time.monotonic(), scan(self.runs)
        return self._seen[1]

    def _render(self, seen: Scan) -> str:
        if self._finished is None or self._finished.state != seen.finished_state:
            self._finished = self._build(seen)
        comparison = self._finished
        live = Live(
            state=seen.state, runs=live_runs(seen.running, self.runs), every=self.every, problem=comparison.problem
        )
        return render(comparison.comparison, curves=comparison.curves, worst=comparison.worst, live=live)

    def _build(self, seen: Scan) -> _Finished:
        refused = [f"{folder.name}: links to a place outside of {self.runs} and is left out" for folder in seen.refused]
        nothing = _nothing(self.runs, refused)
        if not seen.finished:
            return _Finished(seen.finished_state, nothing, (), Worst(), "")
        try:
            comparison, folders = self.build(seen.finished)
        except (UserError, OSError) as error:  # the page must stay up, and say so
            return _Finished(seen.finished_state, nothing, (), Worst(), str(error))
        curves = curve_charts(folders, [arm.name for arm in comparison.arms])
        worst = worst_cases(comparison, folders)
        return _Finished(seen.finished_state, _with_remarks(comparison, refused), tuple(curves), worst, "")


def make_server(dashboard: Dashboard, *, port: int) -> ThreadingHTTPServer:
    """Return a server of a dashboard that listens on this machine only; the caller runs and closes it.

    Args:
        dashboard: what it serves.
        port: 0 for a free one.

    Raises:
        InputError: the port is taken.
    """
    try:
        server = ThreadingHTTPServer((ADDRESS, port), functools.partial(_Handler, dashboard))
    except (OSError, OverflowError) as error:
        raise InputError(f"port {port} cannot be used ({error}); accepted: --port with a free one") from error
    server.daemon_threads = True
    return server


def serve(
    runs: Path, *, port: int, build: Build, on_start: Callable[[str], None] = lambda _: None, every: float = 5.0
) -> None:
    """Serve the page of a folder of runs until Ctrl-C.

    Args:
        runs: the folder.
        port: on this machine; 0 for a free one.
        build: see `Dashboard`.
        on_start: called with the address.
        every: see `Dashboard`.

    Raises:
        InputError: there is no such folder, or the port is taken.
    """
    server = make_server(Dashboard(runs, build=build, every=every), port=port)
    on_start(f"http://{ADDRESS}:{server.server_port}/")
    try:
        server.serve_forever(poll_interval=0.2)
    except KeyboardInterrupt:
        return
    finally:
        server.server_close()


@final
class _Handler(BaseHTTPRequestHandler):
    """Answers GET and HEAD of two addresses, if they were asked for by this machine's name."""

    server_version, sys_version = "distill3d", ""
    timeout = 30

    def __init__(self, dashboard: Dashboard, *args: Any) -> None:  # noqa: ANN401 - the base class's own
        self.dashboard = dashboard
        super().__init__(*args)

    def do_GET(self) -> None:
        self._answer()

    def do_HEAD(self) -> None:
        self._answer()

    def _answer(self) -> None:
        if not self._asked_here():
            self._send(HTTPStatus.MISDIRECTED_REQUEST, b"This dashboard answers to 127.0.0.1 and localhost only.\n")
        elif self.path == "/":
            self._send(HTTPStatus.OK, self.dashboard.page(), "text/html; charset=utf-8")
        elif self.path == "/state":
            self._send(HTTPStatus.OK, self.dashboard.state().encode())
        else:
            self._send(HTTPStatus.NOT_FOUND, b"Accepted: / and /state\n")

    def _asked_here(self) -> bool:
        """Refuse a name of somebody else's that was made to point here (DNS rebinding)."""
        port = self.connection.getsockname()[1]
        return self.headers.get("Host", "").lower() in {f"{ADDRESS}:{port}", f"localhost:{port}"}

    def _send(self, status: HTTPStatus, body: bytes, kind: str = "text/plain; charset=utf-8") -> None:
        self.send_response(status)
        for name, value in {**HEADERS, "Content-Type": kind, "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        """Refuse what is no GET or HEAD, and say what is accepted."""
        if code == HTTPStatus.NOT_IMPLEMENTED:
            self.send_response(HTTPStatus.METHOD_NOT_ALLOWED)
            self.send_header("Allow", "GET, HEAD")
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        super().send_error(code, message, explain)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002, ANN401 - the base class's own
        """Stay silent: a page that asks every few seconds would fill the terminal."""


def _nothing(runs: Path, remarks: list[str]) -> Comparison:
    return Comparison(
        title=f"{runs}: no finished run yet", created="", baseline="", scores=(), arms=(), remarks=tuple(remarks)
    )


def _with_remarks(comparison: Comparison, remarks: list[str]) -> Comparison:
    return dataclasses.replace(comparison, remarks=(*comparison.remarks, *remarks))
