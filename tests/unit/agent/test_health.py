from __future__ import annotations

import asyncio
import gc
import resource
import socket
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from cmk.agent import health
from cmk.agent.health import Readiness
from cmk.agent.limits import files_of_clients

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


def test_who_connects_without_end_takes_neither_files_nor_the_place_of_a_probe(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(health, "SECONDS_TO_SEND", 3600)

    async def run() -> None:
        server = await health.serve(0, lambda: READY)
        port = next(one.getsockname()[1] for one in server.sockets if one.family == socket.AF_INET)
        idle = [await asyncio.open_connection("127.0.0.1", port) for _ in range(health.MOST_OPEN)]
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        async with asyncio.timeout(20):
            with suppress(ConnectionResetError):
                assert await idle[0][0].read() == b""
            writer.write(b"GET /livez HTTP/1.1\r\n\r\n")
            assert (await reader.read()).startswith(b"HTTP/1.1 200 OK")
        assert not idle[1][0].at_eof()
        server.close()
        for _, one in (*idle, (reader, writer)):
            one.transport.abort()

    asyncio.run(run())


def test_a_flood_leaves_the_agent_the_files_that_it_keeps_for_itself() -> None:
    flood = """
import resource, socket, sys
resource.setrlimit(resource.RLIMIT_NOFILE, (2048, 2048))
opened = [socket.create_connection(("127.0.0.1", int(sys.argv[1]))) for _ in range(1000)]
"""
    errors: list[dict[str, Any]] = []

    async def run() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda _, context: errors.append(context))
        server = await health.serve(0, lambda: READY)
        port = next(one.getsockname()[1] for one in server.sockets if one.family == socket.AF_INET)
        clients = await asyncio.create_subprocess_exec(sys.executable, "-c", flood, str(port))
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        own = max(int(one.name) for one in Path("/proc/self/fd").iterdir())
        resource.setrlimit(resource.RLIMIT_NOFILE, (own + 1024 - files_of_clients(1024), hard))
        try:
            assert await clients.wait() == 0
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
            server.close()

    asyncio.run(run())
    assert errors == []
