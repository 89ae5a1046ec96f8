"""List and watch: a stream of objects and their changes that recovers by itself. One thread per stream, blocked while nothing happens."""

from __future__ import annotations

import logging
import random
import threading
import time
from collections.abc import Callable
from time import monotonic

import msgspec

from cmk.kube import shapes
from cmk.kube.client import GONE, Api, ApiError, Json
from cmk.kube.lists import Keep, Lister, whole
from cmk.kube.shapes import ShapeError

log = logging.getLogger(__name__)

# The server ends a watch after this time at the latest, and after half of it at the earliest: so agents do not all come back at once.
WATCH_SECONDS = 300
# A server that is well says something in this time: it ends the watch, if nothing else.
SECONDS_OF_SILENCE = 2 * WATCH_SECONDS
# A round that is shorter is followed by a pause, whatever ended it; each such pause is twice as long as the one before.
HEALTHY_SECONDS = 10.0
FIRST_PAUSE = 1.0
LAST_PAUSE = 30.0
_CHANGES = ("ADDED", "MODIFIED", "DELETED")
_LONGEST_VERSION = 200
# Not random's own numbers: a thread that takes of those disturbs whatever counts on their order.
_RANDOM = random.SystemRandom()


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


class Source(msgspec.Struct, frozen=True):
    """The objects of a ``kind`` at a ``path`` that a field selector selects.

    One that lacks the ``shape`` breaks the stream. Without ``shape`` the receiver sorts out what it cannot read, and ``Listed`` may have
    items that are no objects. Of each object only what ``keep`` makes of it is emitted.
    """

    kind: str
    path: str
    selector: str
    shape: type[msgspec.Struct] | None = None
    keep: Keep = whole


class Follower:
    """Follows a source, with a thread of its own after ``start``. Everything that goes wrong is a ``Lost`` event and begun again."""

    def __init__(
        self,
        api: Api,
        source: Source,
        emit: Callable[[Event], None],
        clock: Callable[[], float] = monotonic,
        sleep: Callable[[float], object] = time.sleep,
    ) -> None:
        self._api, self._source, self._emit, self._clock, self._sleep = api, source, emit, clock, sleep
        self._lister = Lister(api, source.kind, source.path, source.selector, source.keep)
        self._thread: threading.Thread | None = None
        self._version = ""
        self._pause = FIRST_PAUSE
        self._lost = "they have not been listed yet"
        self._heard = clock()
        self._logged: set[type[BaseException]] = set()

    def start(self, name: str) -> None:
        """Follow for ever, in a daemon thread."""
        self._thread = threading.Thread(target=self._follow, name=f"watch-{name}", daemon=True)
        self._thread.start()

    def trouble(self) -> str:
        """Why the objects that were emitted may not be the present ones; "" if they are. May be called in any thread."""
        silent = self._clock() - self._heard
        if self._thread is not None and not self._thread.is_alive():
            return "their thread has ended"
        if self._lost:
            return self._lost
        return f"the API server has said nothing of them for {silent:.0f} s" if silent > SECONDS_OF_SILENCE else ""

    def round(self) -> None:
        """List if the objects are not known, then watch until the watch ends, then pause unless that took long."""
        began, lost, is_quiet = self._clock(), "", False
        try:
            if not self._version:
                self._version = self._list()
            is_quiet = not self._watch()
        except ApiError as error:
            lost = str(error)
            if error.status == GONE and self._clock() - began >= HEALTHY_SECONDS:
                self._version = ""  # a server keeps old versions for some minutes: to list again is the usual way
                return
        except Exception as error:  # whatever it is: a thread that ends leaves the agent with old data
            lost = f"watch of {self._source.path}: {type(error).__name__}: {error}"
            if type(error) not in self._logged:
                self._logged.add(type(error))
                log.exception("%s", lost)
        is_short = self._clock() - began < HEALTHY_SECONDS
        if is_short and is_quiet:  # something between cuts watches off: nothing that happens would be heard
            lost = f"watch of {self._source.path}: it ended at once, without an event"
        if lost:
            self._version, self._lost = "", lost
            self._emit(Lost(lost))
        if not is_short:
            self._pause = FIRST_PAUSE
        if is_short or lost:
            self._sleep(self._pause * _RANDOM.uniform(0.5, 1.0))  # so that agents do not all retry at once
            self._pause = min(self._pause * 2, LAST_PAUSE)

    def _follow(self) -> None:
        while True:
            self.round()

    def _list(self) -> str:
        source = self._source
        listed, items = self._lister.read()
        version = _version_of(listed, f"the list of {source.path}")
        if source.shape is not None:
            for item in items:
                shapes.check(item, source.shape, f"an item of {source.path}")
        self._emit(Listed(items))
        self._heard, self._lost = self._clock(), ""
        return version

    def _watch(self) -> bool:
        """Run one watch to its end; returns whether it brought anything."""
        source, has_events = self._source, False
        seconds = round(WATCH_SECONDS * _RANDOM.uniform(0.5, 1.0))
        for event in self._api.watch(source.path, seconds, fieldSelector=source.selector, resourceVersion=self._version):
            self._heard, has_events = self._clock(), True
            what = f"an event of {source.path}"
            kind, item = event.get("type"), event.get("object")
            if not isinstance(item, dict):
                raise ShapeError(f"{what} has no object")
            if kind == "ERROR":
                code = item.get("code")
                raise ApiError(f"watch of {source.path}: {str(item.get('message'))[:1000]}", code if isinstance(code, int) else 0)
            version = _version_of(item, what)
            if item.get("kind", source.kind) != source.kind:
                raise ShapeError(f"{what} is about no {source.kind}")
            if kind in _CHANGES:
                if source.shape is not None:
                    shapes.check(item, source.shape, what)
                kept = source.keep(item)
                self._emit(Deleted(kept) if kind == "DELETED" else Changed(kept))
            elif kind != "BOOKMARK":
                raise ShapeError(f"{what} is of no known type")
            self._version = version
        self._heard = self._clock()
        return has_events


def start(api: Api, name: str, source: Source, emit: Callable[[Event], None]) -> Follower:
    """Follow a source for ever, in a daemon thread, which calls ``emit`` with each event."""
    follower = Follower(api, source, emit)
    follower.start(name)
    return follower


def _version_of(item: Json, what: str) -> str:
    metadata = item.get("metadata")
    version = metadata.get("resourceVersion") if isinstance(metadata, dict) else None
    if not isinstance(version, str) or not 0 < len(version) <= _LONGEST_VERSION:
        raise ShapeError(f"{what} has no resourceVersion")
    return version
