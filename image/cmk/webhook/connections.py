"""Connections of the webhook's server: deadlines for slow clients, one packet for each answer."""

from __future__ import annotations

import asyncio
import socket
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

HANDSHAKE_SECONDS = 10.0
REQUEST_SECONDS = 10.0


class Protocol(HttpToolsProtocol):
    """A connection that is dropped when its first request, or one that has begun, is not complete in time."""

    _deadline: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn has it
        """Begin to wait for the first request."""
        super().connection_made(_Joining(transport, self.loop))  # type: ignore[arg-type]  # has the methods that uvicorn calls
        self._expect_all()

    def data_received(self, data: bytes) -> None:
        """Begin to wait for the rest of a request."""
        if self._deadline is None and (self.cycle is None or self.cycle.response_complete):
            self._expect_all()
        super().data_received(data)

    def on_message_complete(self) -> None:
        """The request is complete: no deadline until the next one begins."""
        self._cancel_deadline()
        super().on_message_complete()

    def connection_lost(self, exc: Exception | None) -> None:
        """The connection is closed: no deadline."""
        self._cancel_deadline()
        super().connection_lost(exc)

    def _expect_all(self) -> None:
        self._deadline = self.loop.call_later(REQUEST_SECONDS, self.transport.abort)

    def _cancel_deadline(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None


class _Joining:
    """A transport that joins the writes of one turn of the event loop: head and body go out in one TLS record and one packet."""

    def __init__(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop) -> None:
        self._transport, self._loop = transport, loop
        self._pending: list[bytes] = []

    def write(self, data: bytes) -> None:
        """Send together with whatever else is written in this turn."""
        if not self._pending:
            self._loop.call_soon(self._flush)
        self._pending.append(data)

    def close(self) -> None:
        """Close once everything is sent."""
        self._flush()
        self._transport.close()

    def _flush(self) -> None:
        if self._pending:
            self._transport.write(b"".join(self._pending))
            self._pending.clear()

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401  # everything else is the transport's
        return getattr(self._transport, name)


class Loop(asyncio.SelectorEventLoop):
    """An event loop that drops clients whose TLS handshake does not finish in time; uvicorn has no setting for it."""

    async def create_server(self, *args: Any, **kwargs: Any) -> asyncio.Server:  # noqa: ANN401  # as asyncio has it
        """Add the time-out to servers that speak TLS."""
        if kwargs.get("ssl") is not None:
            kwargs["ssl_handshake_timeout"] = HANDSHAKE_SECONDS
        return await super().create_server(*args, **kwargs)


def listen(address: str, port: int) -> socket.socket:
    """A listening socket; ``::`` is every address of both families, or of IPv4 where the kernel has no IPv6. Raises OSError."""
    if address == "::" and not socket.has_dualstack_ipv6():
        address = "0.0.0.0"  # noqa: S104  # the caller asked for every address
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    listener = socket.create_server((address, port), family=family, dualstack_ipv6=address == "::")
    # Connections inherit the option. asyncio sets it only on sockets of its own, and without it an answer waits 40 ms for an ACK.
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return listener
