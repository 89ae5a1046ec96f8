"""The HTTP server of liveness and readiness probes. The event loop itself answers, so an answer proves that it runs."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import NamedTuple

SECONDS_TO_SEND = 5.0
_MAX_HEAD = 8192
_LONGEST_TEXT = 4000


class Readiness(NamedTuple):
    """Whether the agent is ready, and the reason in words."""

    is_ready: bool
    text: str = "ok"


async def serve(port: int, ready: Callable[[], Readiness]) -> asyncio.Server:
    """Answer ``/livez`` and ``/readyz`` on every address."""

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


def _response(path: bytes, readiness: Readiness) -> bytes:
    if path == b"/livez":
        status, text = "200 OK", "ok"
    elif path == b"/readyz":
        status, text = "200 OK" if readiness.is_ready else "503 Service Unavailable", readiness.text[:_LONGEST_TEXT]
    else:
        status, text = "404 Not Found", "there is /livez and /readyz"
    body = f"{text}\n".encode(errors="replace")
    head = f"HTTP/1.1 {status}\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n"
    return head.encode() + body
