"""List and watch: a stream of objects and their changes that recovers by itself. One thread per stream, blocked while nothing happens."""

from __future__ import annotations

import logging
import random
import threading
from collections.abc import Callable

import msgspec

from cmk.kube.client import Api, ApiError, Json

log = logging.getLogger(__name__)

WATCH_SECONDS = 600
FIRST_RETRY = 0.2
LAST_RETRY = 10.0
GONE = 410


class Listed(msgspec.Struct, frozen=True):
    """All objects: they replace those of before."""

    items: list[Json]


class Changed(msgspec.Struct, frozen=True):
    """An object that is new or has changed, as it is now."""

    item: Json


class Deleted(msgspec.Struct, frozen=True):
    """An object that is gone, as it was last."""

    item: Json


class Lost(msgspec.Struct, frozen=True):
    """The stream is broken and will try again; until the next ``Listed`` the known objects may be out of date."""

    reason: str


Event = Listed | Changed | Deleted | Lost


def start(api: Api, name: str, path: str, field_selector: str, emit: Callable[[Event], None]) -> None:
    """Follow the objects at ``path`` for ever, in a daemon thread, which calls ``emit`` with each event."""
    threading.Thread(target=_follow, args=(api, path, field_selector, emit), name=f"watch-{name}", daemon=True).start()


def _follow(api: Api, path: str, field_selector: str, emit: Callable[[Event], None]) -> None:
    delay = FIRST_RETRY
    while True:
        try:
            version = _list(api, path, field_selector, emit)
            delay = FIRST_RETRY
            while True:
                version = _watch(api, path, field_selector, version, emit)
        except ApiError as error:
            if error.status != GONE:  # 410: the server no longer has our resourceVersion, and listing again gives a new one
                emit(Lost(str(error)))
                log.debug("%s; again in %.1f s", error, delay)
                threading.Event().wait(delay * random.uniform(0.5, 1.0))  # noqa: S311  # so that agents do not all retry at once
                delay = min(delay * 2, LAST_RETRY)


def _list(api: Api, path: str, field_selector: str, emit: Callable[[Event], None]) -> str:
    listed = api.get(path, fieldSelector=field_selector)
    emit(Listed(listed.get("items") or []))
    return str(listed["metadata"]["resourceVersion"])


def _watch(api: Api, path: str, field_selector: str, version: str, emit: Callable[[Event], None]) -> str:
    """Run one watch to its end; returns the resourceVersion at which the next one begins."""
    for event in api.watch(path, WATCH_SECONDS, fieldSelector=field_selector, resourceVersion=version):
        item = event["object"]
        if event["type"] == "ERROR":
            raise ApiError(f"watch of {path}: {item.get('message')}", int(item.get("code") or 0))
        version = item["metadata"]["resourceVersion"]
        if event["type"] == "DELETED":
            emit(Deleted(item))
        elif event["type"] in {"ADDED", "MODIFIED"}:
            emit(Changed(item))
    return version
