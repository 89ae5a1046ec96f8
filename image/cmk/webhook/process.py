"""The webhook's process: uvicorn, plus files that are loaded again when they change, and a shutdown that loses no call."""

from __future__ import annotations

import asyncio
import gc
import logging
import signal
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from types import FrameType
from typing import Any

import uvicorn

from cmk.webhook import settings, tls
from cmk.webhook.asgi import App
from cmk.webhook.connections import Loop, Protocol, listen
from cmk.webhook.live import Live
from cmk.webhook.rules import hazards
from cmk.webhook.settings import Settings

log = logging.getLogger(__name__)

# The API server keeps idle connections for 90 s. A server that closes one earlier fails the request that is on its way.
KEEP_ALIVE_SECONDS = 120
MAX_CONNECTIONS = 256
# How long reviews are answered after SIGTERM: until every API server has learnt that this endpoint is gone.
DRAIN_SECONDS = 5.0
GRACE_SECONDS = 10
_TICKS_PER_LOOK = 10  # uvicorn ticks ten times a second


class WebhookProcess:
    """Listens as soon as it is made, and answers from ``run`` on. Raises SettingsError, PairError or OSError when it cannot listen.

    Without ``health_port`` there are no probes and metrics. Port 0 is any free port; ``ports`` has the numbers: reviews, then health.
    """

    def __init__(self, conf_file: Path, client_ca: Path | None, health_port: int | None) -> None:
        configuration = Live("configuration", lambda: settings.load(conf_file), lambda value: value.files)
        served = Live("certificate", lambda: tls.load(_pair(configuration.value, client_ca)), lambda value: value.pair.files)
        _log_hazards(configuration.value)
        self.app = App(configuration, served)
        self._reviews = _Reviews(self.app, configuration, served, client_ca)
        server = configuration.value.server
        self._sockets = [listen(server.binding_address, server.port)]
        if health_port is not None:
            self._sockets.append(listen("::", health_port))
        self.ports = tuple(each.getsockname()[1] for each in self._sockets)

    def run(self) -> None:
        """Serve until SIGTERM, or until ``stop`` is called."""
        for what, port in zip(("reviews", "health"), self.ports, strict=False):
            log.info("%s on port %d", what, port)
        logging.getLogger("uvicorn").setLevel(logging.WARNING)  # start and end are in our own log lines
        # Reviews are trees without cycles: the garbage collector need not go through all objects of the start again and again.
        gc.collect()
        gc.freeze()
        with asyncio.Runner(loop_factory=Loop) as runner:
            runner.run(self._serve())

    def stop(self) -> None:
        """End at once; may be called from any thread."""
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
        http=Protocol,
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
    """The server of reviews: loads changed files, and after SIGTERM goes on answering for ``DRAIN_SECONDS``."""

    def __init__(self, app: App, configuration: Live[Settings], served: Live[tls.Served], client_ca: Path | None) -> None:
        base = tls.base_context(served.value.pair, lambda: served.value.context)
        super().__init__(_config(app.reviews, ssl_context_factory=lambda *_: base))
        self._app, self._configuration, self._served, self._client_ca = app, configuration, served, client_ca

    async def on_tick(self, counter: int) -> bool:
        """Look at the files once a second; uvicorn calls this ten times as often."""
        if counter % _TICKS_PER_LOOK == 0:
            self._refresh()
        return await super().on_tick(counter)

    def _refresh(self) -> None:
        before = self._configuration.value
        if self._configuration.refresh():
            after = self._configuration.value
            _log_hazards(after)
            if _pair(after, self._client_ca) != _pair(before, self._client_ca):
                self._served.reload()
            for name in ("binding_address", "port"):
                old, new = getattr(before.server, name), getattr(after.server, name)
                if old != new:
                    log.warning(
                        "server.%s is %s now: it takes a restart, until then it stays %s", name.replace("_", "-"), new, old
                    )
        self._served.refresh()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Begin to drain on the first SIGTERM; shut down on a second, or on SIGINT."""
        if self._app.draining or sig == signal.SIGINT:
            super().handle_exit(sig, frame)
            return
        self._app.draining = True
        log.info("shutting down: reviews are answered for another %.0f s", DRAIN_SECONDS)
        asyncio.get_running_loop().call_later(DRAIN_SECONDS, self._exit)

    def _exit(self) -> None:
        self.should_exit = True


class _Beside(uvicorn.Server):
    """The server of probes and metrics; the server of reviews handles the process's signals."""

    def capture_signals(self) -> AbstractContextManager[None]:  # type: ignore[override]  # uvicorn's is a generator
        """Capture no signal."""
        return nullcontext()


def _log_hazards(current: Settings) -> None:
    for line in hazards(current.rules.mutations):
        log.warning("mutations: %s", line)
