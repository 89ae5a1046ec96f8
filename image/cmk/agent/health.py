"""The HTTP server of liveness and readiness probes. The event loop itself answers, so an answer proves that it runs."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

SECONDS_TO_SEND = 5.0
_MAX_HEAD = 8192


async def serve(port: int, ready: Callable[[], str]) -> asyncio.Server:
    """Answer ``/livez`` and ``/readyz`` on every address. ``ready`` returns what is missing, "" if nothing is."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            async with asyncio.timeout(SECONDS_TO_SEND):
                head = await reader.readuntil(b"\r\n\r\n")
                path = head.split(b" ", 2)[1] if head.count(b" ") >= 2 else b""
                writer.write(_response(path, ready()))
                await writer.drain()
        except (OSError, TimeoutError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            pass  # the client is not a probe, or has gone away
        finally:
            writer.close()

    return await asyncio.start_server(answer, port=port, limit=_MAX_HEAD)


def _response(path: bytes, missing: str) -> bytes:
    if path == b"/livez":
        status, body = "200 OK", "ok"
    elif path == b"/readyz":
        status, body = ("503 Service Unavailable", missing) if missing else ("200 OK", "ok")
    else:
        status, body = "404 Not Found", "there is /livez and /readyz"
    return f"HTTP/1.1 {status}\r\nContent-Type: text/plain\r\nContent-Length: {len(body) + 1}\r\nConnection: close\r\n\r\n{body}\n".encode()
