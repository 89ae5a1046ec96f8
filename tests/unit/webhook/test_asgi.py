"""The applications, called as a server calls them."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from cmk.webhook.asgi import MAX_BODY, App
from cmk.webhook.live import Live
from cmk.webhook.settings import Rules, ServerSection, Settings
from cmk.webhook.tls import Pair, Served, base_context
from tests.unit.webhook.serving import REVIEW


@pytest.fixture
def app() -> App:
    pair = Pair(Path("c"), Path("k"))
    served = Served(base_context(pair, lambda: served.context), None, pair)
    settings = Settings(ServerSection(cert="c", key="k"), Rules(), ())
    return App(Live("configuration", lambda: settings, lambda _: []), Live("certificate", lambda: served, lambda _: []))


def asked(app: App, *parts: bytes, declared: int | None = None, broken: bool = False) -> tuple[int, dict[bytes, bytes], int]:
    """Status, headers, and how many of the parts were taken."""
    messages = [{"type": "http.request", "body": part, "more_body": index + 1 < len(parts)} for index, part in enumerate(parts)]
    if broken:
        messages[-1] = {"type": "http.disconnect"}
    count = len(messages)
    sent: list[dict[str, Any]] = []

    async def receive() -> dict[str, Any]:
        return messages.pop(0)

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    headers = [] if declared is None else [(b"content-length", str(declared).encode())]
    asyncio.run(app.reviews({"path": "/mutate", "method": "POST", "headers": headers}, receive, send))
    return sent[0]["status"], dict(sent[0]["headers"]), count - len(messages)


def test_a_body_in_parts(app: App) -> None:
    assert asked(app, REVIEW[:10], REVIEW[10:])[0] == 200


def test_more_than_the_largest_review_is_refused_unread_when_it_says_so(app: App) -> None:
    status, headers, taken = asked(app, b"", declared=MAX_BODY + 1)
    assert (status, headers[b"connection"], taken) == (413, b"close", 0)


def test_and_as_soon_as_it_is_too_much_when_it_does_not(app: App) -> None:
    status, headers, taken = asked(app, *[b"x" * (MAX_BODY // 2)] * 9)
    assert (status, headers[b"connection"], taken) == (413, b"close", 3)


def test_as_much_as_may_be_is_read(app: App) -> None:
    assert asked(app, b"x" * MAX_BODY, declared=MAX_BODY)[0] == 400


def test_a_request_that_ends_early(app: App) -> None:
    assert asked(app, b"{", b"", broken=True)[0] == 400


def test_who_leaves_asks_callers_to_come_back_elsewhere(app: App) -> None:
    assert b"connection" not in asked(app, REVIEW)[1]
    app.draining = True
    assert asked(app, REVIEW)[1][b"connection"] == b"close"
