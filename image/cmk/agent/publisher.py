"""Keeps the API objects as they should be: the Node's resource, label and taint, and the NodeReport. Acts on changes only."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Mapping

import msgspec

from cmk.agent.watches import ClusterView
from cmk.kube import events, reports
from cmk.kube import node as node_api
from cmk.kube.client import Api, ApiError, Json
from cmk.model.advertise import advertise, requested
from cmk.model.pods import Pod, from_json

log = logging.getLogger(__name__)

FIRST_RETRY = 0.5
LAST_RETRY = 30.0
WITHDRAW_ATTEMPTS = 5
CONFLICT = 409
# What the API server will not take the next time either.
_NO_USE = frozenset({400, 403, 404, 422})
# A report is derived data; under continuous allocation it follows at this pace.
SECONDS_BETWEEN_REPORTS = 2.0
# While the API server is away, the newest are worth keeping.
MOST_EVENTS = 20


class Marks(msgspec.Struct, frozen=True):
    """What the Node should carry: lists per extended resource, and whether it is labelled and tainted."""

    lists: dict[str, int]
    label: bool = True
    taint: bool = True


class Publisher:
    """``marks`` and ``report`` tell what should be, or None while that is not known."""

    def __init__(
        self,
        api: Api,
        node: str,
        view: ClusterView,
        marks: Callable[[], Marks | None],
        report: Callable[[], Json | None],
    ) -> None:
        self._api = api
        self._node = node
        self._view = view
        self._marks = marks
        self._report = report
        self._dirty = asyncio.Event()
        self._next_report = 0.0
        self._events: deque[tuple[str, str, bool, Pod | None]] = deque(maxlen=MOST_EVENTS)
        self._patching = asyncio.Lock()

    def tell(self, reason: str, message: str, *, warning: bool = True, pod: Pod | None = None) -> None:
        """Have an Event on the Node, or on a pod, say so."""
        self._events.append((reason, message, warning, pod))
        self.poke()

    def poke(self) -> None:
        """Something changed: look again."""
        self._dirty.set()

    async def run(self) -> None:
        """Assert for ever; failures are retried at a growing pace."""
        delay = FIRST_RETRY
        while True:
            await self._dirty.wait()
            self._dirty.clear()
            try:
                await self.assert_node()
                await self._assert_report()
                await self._send_events()
                delay = FIRST_RETRY
            except ApiError as error:
                log.warning("%s; again in %.1f s", error, delay)
                asyncio.get_running_loop().call_later(delay, self.poke)
                delay = min(delay * 2, LAST_RETRY)

    async def withdraw(self) -> bool:
        """Take everything back, unless a bound pod still needs the resource; returns whether it was. Raises ApiError."""
        for attempt in range(WITHDRAW_ATTEMPTS):
            node = await asyncio.to_thread(self._api.get, node_api.path_of(self._node))
            pods = [from_json(item) for item in await self._view.list_pods()]  # what the watch told may be old by now
            needed = {name for name in node_api.advertised(node) if requested(pods, name)}
            if needed:
                log.warning("node left the selection, but bound pods still need %s: left as it is", ", ".join(sorted(needed)))
                return False
            try:
                await self._patch(node, Marks({}, label=False, taint=False), {})
                break
            except ApiError as error:
                if error.status != CONFLICT or attempt == WITHDRAW_ATTEMPTS - 1:
                    raise
        await asyncio.to_thread(reports.delete, self._api, self._node)
        return True

    async def assert_node(self) -> None:
        """Have the Node carry what it should, now. Raises ApiError."""
        async with self._patching:
            marks, node = self._marks(), self._view.node
            if marks is None or node is None:
                return
            await self._patch(node, marks, advertise(marks.lists, node_api.advertised(node), self._demand()))

    async def _patch(self, node: Json, marks: Marks, resources: Mapping[str, int]) -> None:
        if patch := node_api.status_patch(node, resources):
            node = await asyncio.to_thread(node_api.apply_status, self._api, self._node, patch)
            log.info("node %s advertises %s", self._node, dict(resources) or "nothing of ours")
        if patch := node_api.marks_patch(node, label=marks.label, taint=marks.taint):
            await asyncio.to_thread(node_api.apply_marks, self._api, self._node, patch)
            log.info("node %s: label %s, taint %s", self._node, marks.label, marks.taint)

    async def _send_events(self) -> None:
        while self._events:
            reason, message, warning, pod = self._events[0]
            try:
                await asyncio.to_thread(events.send, self._api, self._node, reason, message, warning=warning, pod=pod)
            except ApiError as error:
                if error.status not in _NO_USE:
                    raise
                log.warning("event %s: %s", reason, error)  # its namespace is about to go
            self._events.popleft()

    def _demand(self) -> Callable[[str], int | None]:
        pods = self._view.pods.all.values() if self._view.pods_known else None
        return lambda name: None if pods is None else requested(pods, name)

    async def _assert_report(self) -> None:
        loop = asyncio.get_running_loop()
        body = self._report()
        if body is None or not self._view.report_known or reports.is_current(body, self._view.report):
            return
        wait = self._next_report - loop.time()
        if wait > 0 and self._view.report is not None:
            loop.call_later(wait, self.poke)
            return
        self._view.report = await asyncio.to_thread(reports.put, self._api, self._node, body, self._view.report)
        self._next_report = loop.time() + SECONDS_BETWEEN_REPORTS
