"""The webhook's process: uvicorn, with deadlines, certificates that change under it, and an end that loses no call."""

from __future__ import annotations

import asyncio
import gc
import logging
import signal
import socket
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from types import FrameType
from typing import Any

import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from cmk.webhook import settings, tls
from cmk.webhook.app import App
from cmk.webhook.live import Live
from cmk.webhook.rules import hazards
from cmk.webhook.settings import Settings

log = logging.getLogger(__name__)

HANDSHAKE_SECONDS = 10.0
REQUEST_SECONDS = 10.0
# The API server keeps idle connections for 90 s; whoever closes first fails the request that is on its way.
KEEP_ALIVE_SECONDS = 120
MAX_CONNECTIONS = 256
# How long we go on answering after SIGTERM: until every API server knows that we leave.
DRAIN_SECONDS = 5.0
GRACE_SECONDS = 10
_TICKS_PER_LOOK = 10  # uvicorn ticks ten times a second


class Process:
    """Listens from the beginning, answers from ``run`` on. Raises SettingsError, OSError or ValueError when it cannot begin.

    ``health_port`` None is no probes; ports of 0 are any that are free, to be found in ``ports``.
    """

    def __init__(self, conf_file: Path, client_ca: Path | None, health_port: int | None) -> None:
        configuration = Live("configuration", lambda: settings.load(conf_file), lambda value: value.files)
        served = Live("certificate", lambda: tls.load(_pair(configuration.value, client_ca)), lambda value: value.pair.files)
        _tell_hazards(configuration.value)
        self.app = App(configuration, served)
        self._reviews = _Reviews(self.app, configuration, served, client_ca)
        server = configuration.value.server
        self._sockets = [_listen(server.binding_address, server.port)]
        if health_port is not None:
            self._sockets.append(_listen("::", health_port))
        self.ports = tuple(each.getsockname()[1] for each in self._sockets)

    def run(self) -> None:
        """Serve until SIGTERM, or until ``stop`` is called."""
        for what, port in zip(("reviews", "health"), self.ports, strict=False):
            log.info("%s on port %d", what, port)
        logging.getLogger("uvicorn").setLevel(logging.WARNING)  # what it says at start and end, we say in our own words
        # Reviews are trees without cycles: what is there now need not be looked through again and again for garbage.
        gc.collect()
        gc.freeze()
        with asyncio.Runner(loop_factory=_Loop) as runner:
            runner.run(self._serve())

    def stop(self) -> None:
        """End at once, from whichever thread."""
        self._reviews.should_exit = True

    async def _serve(self) -> None:
        reviews, *more = self._sockets
        health = _Beside(_config(self.app.health))
        beside = asyncio.ensure_future(health.serve(more)) if more else None
        try:
            await self._reviews.serve([reviews])
        finally:
            health.should_exit = True
            if beside:
                await beside


def _pair(current: Settings, client_ca: Path | None) -> tls.Pair:
    return tls.Pair(Path(current.server.cert), Path(current.server.key), client_ca)


def _config(app: Any, **more: Any) -> uvicorn.Config:  # noqa: ANN401  # ASGI, and what uvicorn takes
    return uvicorn.Config(
        app,
        http=_Protocol,
        loop="none",
        ws="none",
        lifespan="off",
        interface="asgi3",
        log_config=None,
        access_log=False,
        proxy_headers=False,
        server_header=False,
        date_header=False,
        backlog=1024,
        limit_concurrency=MAX_CONNECTIONS,
        timeout_keep_alive=KEEP_ALIVE_SECONDS,
        timeout_graceful_shutdown=GRACE_SECONDS,
        **more,
    )


class _Reviews(uvicorn.Server):
    """Looks after changed files, and on SIGTERM serves on until nobody comes any more."""

    def __init__(self, app: App, configuration: Live[Settings], served: Live[tls.Served], client_ca: Path | None) -> None:
        base = tls.base_context(served.value.pair, lambda: served.value.context)
        super().__init__(_config(app.reviews, ssl_context_factory=lambda *_: base))
        self._app, self._configuration, self._served, self._client_ca = app, configuration, served, client_ca

    async def on_tick(self, counter: int) -> bool:
        """Ten times a second, from uvicorn."""
        if counter % _TICKS_PER_LOOK == 0:
            self._look()
        return await super().on_tick(counter)

    def _look(self) -> None:
        before = self._configuration.value
        if self._configuration.refresh():
            after = self._configuration.value
            _tell_hazards(after)
            if _pair(after, self._client_ca) != _pair(before, self._client_ca):
                self._served.reload()
            for name in ("binding_address", "port"):
                old, new = getattr(before.server, name), getattr(after.server, name)
                if old != new:
                    log.warning("server.%s is %s now: takes a restart, %s stays", name.replace("_", "-"), new, old)
        self._served.refresh()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """On the first signal begin to leave; on a second, leave."""
        if self._app.draining or sig == signal.SIGINT:
            super().handle_exit(sig, frame)
            return
        self._app.draining = True
        log.info("leaving: answering for another %.0f s", DRAIN_SECONDS)
        asyncio.get_running_loop().call_later(DRAIN_SECONDS, self._leave)

    def _leave(self) -> None:
        self.should_exit = True


class _Beside(uvicorn.Server):
    """A second server in the process: signals are the first one's."""

    def capture_signals(self) -> AbstractContextManager[None]:  # type: ignore[override]  # a generator is one, too
        """Capture none."""
        return nullcontext()


class _Protocol(HttpToolsProtocol):
    """A connection that must send its first request in time, and the next one once it has begun."""

    _deadline: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn has it
        super().connection_made(_Joining(transport, self.loop))  # type: ignore[arg-type]  # does what uvicorn calls of one
        self._expect_all()

    def data_received(self, data: bytes) -> None:
        if self._deadline is None and (self.cycle is None or self.cycle.response_complete):
            self._expect_all()
        super().data_received(data)

    def on_message_complete(self) -> None:
        self._forget()
        super().on_message_complete()

    def connection_lost(self, exc: Exception | None) -> None:
        self._forget()
        super().connection_lost(exc)

    def _expect_all(self) -> None:
        self._deadline = self.loop.call_later(REQUEST_SECONDS, self.transport.abort)

    def _forget(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None


class _Joining:
    """A transport that sends what is written in one turn of the loop at once: head and body in one TLS record and one packet."""

    def __init__(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop) -> None:
        self._transport, self._loop = transport, loop
        self._pending: list[bytes] = []

    def write(self, data: bytes) -> None:
        """Send with whatever else comes in this turn."""
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


class _Loop(asyncio.SelectorEventLoop):
    """An event loop whose servers drop who does not finish the TLS handshake; uvicorn has no setting for it."""

    async def create_server(self, *args: Any, **kwargs: Any) -> asyncio.Server:  # noqa: ANN401  # as asyncio has it
        """Add the time-out where there is TLS."""
        if kwargs.get("ssl") is not None:
            kwargs["ssl_handshake_timeout"] = HANDSHAKE_SECONDS
        return await super().create_server(*args, **kwargs)


def _listen(address: str, port: int) -> socket.socket:
    """A bound socket; ``::`` is every address of both families, or of IPv4 where the kernel has no IPv6."""
    if address == "::" and not socket.has_dualstack_ipv6():
        address = "0.0.0.0"  # noqa: S104  # every address is what was asked for
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    listener = socket.create_server((address, port), family=family, dualstack_ipv6=address == "::")
    # Connections inherit it. asyncio sets it only on sockets that it made itself, and without it an answer waits 40 ms for an ACK.
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return listener


def _tell_hazards(current: Settings) -> None:
    for line in hazards(current.rules.mutations):
        log.warning("mutations: %s", line)
