"""The webhook's two HTTP applications (ASGI): reviews over TLS, and probes and metrics on a port beside."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from time import perf_counter
from typing import Any

from cmk.model.errors import CmkError
from cmk.webhook.live import Live
from cmk.webhook.metrics import CONTENT_TYPE, Metrics
from cmk.webhook.review import BadReview, answer
from cmk.webhook.settings import Settings
from cmk.webhook.tls import Served

Scope = dict[str, Any]
Receive = Callable[[], Awaitable[dict[str, Any]]]
Send = Callable[[dict[str, Any]], Awaitable[None]]

# A review holds the object and its previous version, 3 MB each at most, and little beside.
MAX_BODY = 7 << 20
_TEXT = b"text/plain; charset=utf-8"


class _Answer(CmkError):
    """An HTTP answer with a status other than 200."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.status = status


class App:
    """The two applications of one server, ``reviews`` and ``health``, and the state that they share."""

    def __init__(self, settings: Live[Settings], served: Live[Served]) -> None:
        self._settings, self._served = settings, served
        self.draining = False
        self.metrics = Metrics(
            lambda: served.value.not_after, lambda: not self.problems, lambda: settings.failures + served.failures
        )

    @property
    def problems(self) -> list[str]:
        """Why the newest files are not in use; empty when they are."""
        return [problem for problem in (self._settings.problem, self._served.problem) if problem]

    async def reviews(self, scope: Scope, receive: Receive, send: Send) -> None:
        """``POST /mutate``."""
        try:
            if scope["path"] != "/mutate":
                raise _Answer(404, "there is /mutate")
            if scope["method"] != "POST":
                raise _Answer(405, "POST an AdmissionReview")
            body = await _body(scope, receive)
            start = perf_counter()
            response, decision = answer(body, self._settings.value.rules)
            self.metrics.seconds.observe(perf_counter() - start)
            outcome = "refused" if decision.denial else "mutated" if decision.patch else "unchanged"
            self.metrics.reviews[outcome].inc()
            await self._send(send, 200, response, b"application/json")
        except BadReview as error:
            self.metrics.reviews["malformed"].inc()
            await self._send(send, 400, f"this is not a review of a pod: {error}".encode())
        except _Answer as error:
            await self._send(send, error.status, str(error).encode())

    async def health(self, scope: Scope, receive: Receive, send: Send) -> None:
        """``/healthz``, ``/readyz``, ``/metrics``."""
        path = scope["path"]
        if path == "/metrics":
            await self._send(send, 200, self.metrics.text(), CONTENT_TYPE)
        elif path == "/healthz":
            await self._send(send, 200, b"ok")
        elif path == "/readyz":
            # The last good files are still in use: a reason to say so, not to take this replica out of the Service.
            detail = "".join(f"{problem}\n" for problem in self.problems)
            status, text = (503, "shutting down\n") if self.draining else (200, "ok\n")
            await self._send(send, status, f"{text}{detail}".encode())
        else:
            await self._send(send, 404, b"there is /healthz, /readyz and /metrics")

    async def _send(self, send: Send, status: int, body: bytes, kind: bytes = _TEXT) -> None:
        headers = [(b"content-type", kind), (b"content-length", str(len(body)).encode())]
        # A body that was not read would be taken for the next request. And clients of a server that shuts down should connect to another.
        if self.draining or status == 413:
            headers.append((b"connection", b"close"))
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": body})


async def _body(scope: Scope, receive: Receive) -> bytes:
    too_large = _Answer(413, f"the body has more than {MAX_BODY} bytes: no review of a pod is that large")
    for name, value in scope["headers"]:
        if name == b"content-length" and int(value) > MAX_BODY:
            raise too_large
    parts, length = [], 0
    while True:
        message = await receive()
        if message["type"] != "http.request":
            raise _Answer(400, "the request ended early")
        parts.append(message["body"])
        length += len(message["body"])
        if length > MAX_BODY:
            raise too_large
        if not message["more_body"]:
            return b"".join(parts)
