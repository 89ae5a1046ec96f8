"""An HTTP server on loopback that answers as a test tells it to, in the place of an API server."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from kubernetes.client.configuration import Configuration

from cmk.kube.client import Api

Json = dict[str, Any]


class FakeServer(ThreadingHTTPServer):
    """Every request is kept in ``seen`` as (method, path, query, body, content type); answers are taken from ``answers`` in turn.

    An answer is (status, object), or (status, list) for the lines of a watch.
    """

    daemon_threads = True

    def __init__(self, *answers: tuple[int, Any]) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.answers = list(answers)
        self.seen: list[tuple[str, str, dict[str, str], Json | None, str]] = []
        self.authorizations: list[str | None] = []
        self.accepted: list[str | None] = []

    @property
    def api(self) -> Api:
        """A client of this server."""
        configuration = Configuration()
        configuration.host = f"http://127.0.0.1:{self.server_port}"
        return Api(configuration)


class _Handler(BaseHTTPRequestHandler):
    server: FakeServer

    def _answer(self) -> None:
        url = urlsplit(self.path)
        length = int(self.headers.get("Content-Length") or 0)
        body = json.loads(self.rfile.read(length)) if length else None
        kind = self.headers.get("Content-Type", "")
        self.server.seen.append((self.command, url.path, dict(parse_qsl(url.query)), body, kind))
        self.server.authorizations.append(self.headers.get("Authorization"))
        self.server.accepted.append(self.headers.get("Accept"))
        status, answer = self.server.answers.pop(0) if self.server.answers else (404, {"message": "no more answers"})
        lines = answer if isinstance(answer, list) else [answer]
        data = b"".join((line if isinstance(line, str) else json.dumps(line)).encode() + b"\n" for line in lines)
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = _answer

    def log_message(self, format: str, *args: object) -> None:
        pass


@contextmanager
def serving(*answers: tuple[int, Any]) -> Iterator[FakeServer]:
    """A server for the time of a test."""
    server = FakeServer(*answers)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
