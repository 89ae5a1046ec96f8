"""The same answers from Python's own http.server, threaded, HTTP/1.1, for comparison. Usage: httpserver.py PORT CERT KEY"""

from __future__ import annotations

import socket
import ssl
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from cmk.webhook.review import answer
from cmk.webhook.rules import Rules

RULES = Rules()


class Handler(BaseHTTPRequestHandler):
    """POST a review."""

    protocol_version = "HTTP/1.1"
    wbufsize = -1  # one write for each answer

    def do_POST(self) -> None:  # as http.server calls it
        """Answer."""
        response, _ = answer(self.rfile.read(int(self.headers["Content-Length"])), RULES)
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(response)))
        self.end_headers()
        self.wfile.write(response)

    def setup(self) -> None:
        """No waiting for more to send."""
        super().setup()
        self.connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""


server = ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Handler)
context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
context.load_cert_chain(sys.argv[2], sys.argv[3])
context.num_tickets = 0
server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
server.serve_forever()
