from __future__ import annotations

import asyncio
import gc
import socket
from typing import Any

import pytest

from cmk.agent import health
from cmk.agent.health import Readiness

READY = Readiness(True)


def ask(request: bytes, readiness: Readiness = READY) -> bytes:
    errors: list[dict[str, Any]] = []

    async def run() -> bytes:
        asyncio.get_running_loop().set_exception_handler(lambda _, context: errors.append(context))
        server = await health.serve(0, lambda: readiness)
        port = next(one.getsockname()[1] for one in server.sockets if one.family == socket.AF_INET)
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(request)
        try:
            return await reader.read()
        except ConnectionResetError:
            return b""  # hung up on before it had said all
        finally:
            writer.close()
            server.close()

    answer = asyncio.run(run())
    gc.collect()  # a task that nobody asked tells its exception when it goes
    assert errors == []
    return answer


STANDING_BY, NO_LAYOUT, UMLAUTS = Readiness(True, "standing by"), Readiness(False, "no layout"), Readiness(False, "ä" * 5000)


@pytest.mark.parametrize(
    ("path", "readiness", "status", "body"),
    [
        (b"/livez", READY, b"200 OK", b"ok"),
        (b"/livez", NO_LAYOUT, b"200 OK", b"ok"),
        (b"/readyz", READY, b"200 OK", b"ok"),
        (b"/readyz", STANDING_BY, b"200 OK", b"standing by"),
        (b"/readyz", NO_LAYOUT, b"503 Service Unavailable", b"no layout"),
        (b"/readyz", UMLAUTS, b"503 Service Unavailable", ("ä" * 4000).encode()),
        (b"/", READY, b"404 Not Found", b"there is /livez and /readyz"),
    ],
)
def test_probes(path: bytes, readiness: Readiness, status: bytes, body: bytes) -> None:
    head, _, rest = ask(b"GET " + path + b" HTTP/1.1\r\nHost: x\r\n\r\n", readiness).partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 " + status)
    assert rest == body + b"\n"
    assert f"Content-Length: {len(rest)}".encode() in head


@pytest.mark.parametrize("request_", [b"\r\n\r\n", b"x" * 20000])
def test_what_is_no_probe_hurts_nobody(request_: bytes) -> None:
    ask(request_)
