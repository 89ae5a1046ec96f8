from __future__ import annotations

import asyncio
import gc
import socket
from typing import Any

import pytest

from cmk.agent import health


def ask(request: bytes, missing: str = "") -> bytes:
    errors: list[dict[str, Any]] = []

    async def run() -> bytes:
        asyncio.get_running_loop().set_exception_handler(lambda _, context: errors.append(context))
        server = await health.serve(0, lambda: missing)
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


@pytest.mark.parametrize(
    ("path", "missing", "status", "body"),
    [
        (b"/livez", "", b"200 OK", b"ok"),
        (b"/livez", "no layout", b"200 OK", b"ok"),
        (b"/readyz", "", b"200 OK", b"ok"),
        (b"/readyz", "no layout", b"503 Service Unavailable", b"no layout"),
        (b"/", "", b"404 Not Found", b"there is /livez and /readyz"),
    ],
)
def test_probes(path: bytes, missing: str, status: bytes, body: bytes) -> None:
    head, _, rest = ask(b"GET " + path + b" HTTP/1.1\r\nHost: x\r\n\r\n", missing).partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 " + status)
    assert rest == body + b"\n"
    assert f"Content-Length: {len(rest)}".encode() in head


@pytest.mark.parametrize("request_", [b"\r\n\r\n", b"x" * 20000])
def test_what_is_no_probe_hurts_nobody(request_: bytes) -> None:
    ask(request_)
