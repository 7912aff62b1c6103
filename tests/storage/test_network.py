"""A server that answers, one that never does, and none."""

import socket
import threading
import time
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from distill3d.storage import network
from distill3d.storage.network import answers


@pytest.mark.parametrize(("code", "answered"), [(200, True), (404, True), (403, True), (502, False), (503, False)])
def test_whatever_a_server_says_is_an_answer_but_not_that_a_proxy_cannot_reach_it(code, answered, monkeypatch):
    monkeypatch.setattr(network, "PROBE_SECONDS", 20)

    class Handler(BaseHTTPRequestHandler):
        def do_HEAD(self):
            self.send_response(code)
            self.end_headers()

        def log_message(self, *_):
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.handle_request, daemon=True).start()
        assert answers(f"http://127.0.0.1:{server.server_port}") is answered


def test_a_server_or_a_name_server_that_keeps_silent_is_given_up(monkeypatch):
    monkeypatch.setattr(network, "PROBE_SECONDS", 0.1)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        assert not answers(f"http://127.0.0.1:{silent.getsockname()[1]}")

    def look_up(*_, **__):
        time.sleep(0.5)
        raise socket.gaierror

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    started = time.monotonic()
    assert not answers("http://somewhere.invalid")
    assert time.monotonic() - started < 0.45
