"""The HTTP server of liveness and readiness probes. The event loop itself answers, so an answer proves that it runs.

Every pod can connect to it: who connects without end takes neither the agent's files nor the place of a probe.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import NamedTuple

SECONDS_TO_SEND = 5.0
# Connections that are open, beside the few that were accepted in the last turns of the event loop: together fewer than the files that
# the agent keeps for itself (limits.py). asyncio calls the exception handler, which ends the agent, when it can accept none.
MOST_OPEN = 32
ACCEPTED_AT_ONCE = 4
BACKLOG = 128
_MAX_HEAD = 8192
_LONGEST_TEXT = 4000


class Readiness(NamedTuple):
    """Whether the agent is ready, and the reason in words."""

    is_ready: bool
    text: str = "ok"


async def serve(port: int, ready: Callable[[], Readiness]) -> asyncio.Server:
    """Answer ``/livez`` and ``/readyz`` on every address."""
    connections: dict[asyncio.StreamWriter, None] = {}  # the oldest first

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connections[writer] = None
        if len(connections) > MOST_OPEN:  # a probe has sent all by the time it is accepted: those that wait are none
            oldest = next(iter(connections))
            del connections[oldest]
            oldest.transport.abort()
        try:
            async with asyncio.timeout(SECONDS_TO_SEND):
                head = await reader.readuntil(b"\r\n\r\n")
                path = head.split(b" ", 2)[1] if head.count(b" ") >= 2 else b""
                writer.write(_response(path, ready()))
                await writer.drain()
        except (OSError, TimeoutError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            pass  # the client is not a probe, or has gone away
        finally:
            connections.pop(writer, None)
            writer.close()

    server = await asyncio.start_server(answer, port=port, limit=_MAX_HEAD, backlog=ACCEPTED_AT_ONCE)
    for one in server.sockets:
        with one.dup() as listener:
            listener.listen(BACKLOG)  # of which asyncio knows nothing: it would accept as many at once
    return server


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
