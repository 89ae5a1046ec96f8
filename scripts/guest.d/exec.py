#!/usr/bin/env python3
"""A door into the guest: ``exec.py serve ADDRESS`` inside, ``exec.py run ADDRESS SECONDS COMMAND...`` outside.

One JSON line asks (argv, standard input); JSON lines answer: what the command wrote on which descriptor, then its exit code.
SECONDS is how long to wait for the door to open.
"""

import base64
import json
import socket
import socketserver
import subprocess
import sys
import threading
import time

PORT = 7777


class Door(socketserver.StreamRequestHandler):
    """One command."""

    def handle(self) -> None:
        """Run it and pass its output on as it comes."""
        asked = json.loads(self.rfile.readline())
        pipe = subprocess.PIPE
        command = subprocess.Popen(asked["argv"], stdin=pipe, stdout=pipe, stderr=pipe)
        lock = threading.Lock()

        def tell(**what: object) -> None:
            with lock:
                self.wfile.write(json.dumps(what).encode() + b"\n")

        def pass_on(number: int, stream) -> None:  # type: ignore[no-untyped-def]  # noqa: ANN001
            while data := stream.read1(65536):
                tell(fd=number, data=base64.b64encode(data).decode())

        threads = [threading.Thread(target=pass_on, args=pair) for pair in ((1, command.stdout), (2, command.stderr))]
        for thread in threads:
            thread.start()
        assert command.stdin is not None  # noqa: S101
        try:
            command.stdin.write(base64.b64decode(asked["stdin"]))
            command.stdin.close()
        except BrokenPipeError:
            pass  # it does not read its input
        for thread in threads:
            thread.join()
        tell(rc=command.wait())


class Server(socketserver.ThreadingTCPServer):
    """Serves commands concurrently."""

    allow_reuse_address = True
    daemon_threads = True


def run(address: str, seconds: float, argv: list[str]) -> int:
    """Run one command in the guest; returns its exit code."""
    deadline = time.monotonic() + seconds
    while True:
        try:
            connection = socket.create_connection((address, PORT), timeout=2)
            break
        except OSError as error:
            if time.monotonic() > deadline:
                sys.exit(f"no answer from the guest at {address}: {error}")
            time.sleep(0.1)
    connection.settimeout(600)
    given = b"" if sys.stdin.isatty() else sys.stdin.buffer.read()
    connection.sendall(json.dumps({"argv": argv, "stdin": base64.b64encode(given).decode()}).encode() + b"\n")
    for line in connection.makefile():
        answer = json.loads(line)
        if "rc" in answer:
            return int(answer["rc"])
        stream = (sys.stdout if answer["fd"] == 1 else sys.stderr).buffer
        stream.write(base64.b64decode(answer["data"]))
        stream.flush()
    sys.exit("the guest hung up")


if sys.argv[1] == "serve":
    Server((sys.argv[2], PORT), Door).serve_forever()
else:
    code = run(sys.argv[2], float(sys.argv[3]), sys.argv[4:])
    sys.exit(code if code >= 0 else 128 - code)
