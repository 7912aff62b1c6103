"""The page of a folder of runs while they go on, on this machine only. It reads files; it changes and serves none.

Two addresses exist: the page, and a digest of what it was made of, which the page asks for. No path of a request is
ever joined to a folder.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import socket
import sys
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
from distill3d.report.live.sweeps import live_sweeps
from distill3d.report.page.curves import TermChart, curve_charts
from distill3d.report.page.html import render
from distill3d.report.page.live import Live
from distill3d.report.page.worst import Worst, worst_cases

ADDRESS = "127.0.0.1"
FRESH = 0.5  # seconds a look at the folder is good for
MOST_CLIENTS = 64  # at a time; one more, and the one that has been there for longest is dropped
PATIENCE = 30  # seconds that a client may take to ask, and again to read
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
            state=seen.state,
            runs=live_runs(seen.running, self.runs),
            sweeps=live_sweeps(seen.trials, self.runs),
            every=self.every,
            problem=comparison.problem,
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


@final
class _Server(ThreadingHTTPServer):
    """Drops a client that hangs up, or that others have waited for, without a word."""

    daemon_threads = True
    request_queue_size = MOST_CLIENTS

    def __init__(self, *args: Any) -> None:  # noqa: ANN401 - the base class's own
        self._clients: dict[socket.socket, None] = {}  # the oldest first
        self._lock = threading.Lock()
        super().__init__(*args)

    def process_request(self, request: Any, client_address: Any) -> None:  # noqa: ANN401 - likewise
        """Make room for a new client."""
        with self._lock:
            self._clients[request] = None
            oldest = next(iter(self._clients)) if len(self._clients) > MOST_CLIENTS else None
        if oldest is not None:
            self._hang_up(oldest)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:  # noqa: ANN401 - likewise
        """Let go of a client that was answered."""
        with self._lock:
            self._clients.pop(request, None)
        super().shutdown_request(request)

    def handle_error(self, request: Any, client_address: Any) -> None:  # noqa: ANN401 - likewise
        """Show what is an error of ours alone: a client that went away is none."""
        if not isinstance(sys.exception(), OSError):
            super().handle_error(request, client_address)

    def _hang_up(self, client: socket.socket) -> None:
        with self._lock:
            self._clients.pop(client, None)
        with contextlib.suppress(OSError):  # it has gone itself
            client.shutdown(socket.SHUT_RDWR)  # which ends the thread that waits for it


def make_server(dashboard: Dashboard, *, port: int) -> ThreadingHTTPServer:
    """Return a server of a dashboard that listens on this machine only; the caller runs and closes it.

    Args:
        dashboard: what it serves.
        port: 0 for a free one.

    Raises:
        InputError: the port is taken.
    """
    try:
        server = _Server((ADDRESS, port), functools.partial(_Handler, dashboard))
    except (OSError, OverflowError) as error:
        raise InputError(f"port {port} cannot be used ({error}); accepted: --port with a free one") from error
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
    timeout = PATIENCE

    def __init__(self, dashboard: Dashboard, *args: Any) -> None:  # noqa: ANN401 - the base class's own
        self.dashboard = dashboard
        super().__init__(*args)

    def do_GET(self) -> None:
        self._answer()

    def do_HEAD(self) -> None:
        self._answer()

    def _answer(self) -> None:
        try:
            status, body = self._content()
        except OSError as error:  # of a run's file; the client's own are raised by `_send`
            status, body = HTTPStatus.INTERNAL_SERVER_ERROR, f"The runs cannot be read: {error}\n".encode()
        page = status is HTTPStatus.OK and self.path == "/"
        self._send(status, body, "text/html; charset=utf-8" if page else "text/plain; charset=utf-8")

    def _content(self) -> tuple[HTTPStatus, bytes]:
        if not self._asked_here():
            return HTTPStatus.MISDIRECTED_REQUEST, b"This dashboard answers to 127.0.0.1 and localhost only.\n"
        if self.path == "/":
            return HTTPStatus.OK, self.dashboard.page()
        if self.path == "/state":
            return HTTPStatus.OK, self.dashboard.state().encode()
        return HTTPStatus.NOT_FOUND, b"Accepted: / and /state\n"

    def _asked_here(self) -> bool:
        """Refuse a name of somebody else's that was made to point here (DNS rebinding)."""
        port = self.connection.getsockname()[1]
        return self.headers.get("Host", "").lower() in {f"{ADDRESS}:{port}", f"localhost:{port}"}

    def _send(self, status: HTTPStatus, body: bytes, kind: str) -> None:
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
