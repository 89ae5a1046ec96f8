"""The loop that keeps the agent's API objects as they should be: events, resource, label and taint of the Node, and the NodeReport.

Each of the three has its own retries: what the API server does not take of one holds up no other.
"""

from __future__ import annotations

import asyncio
import logging
import math
import random
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Mapping

import msgspec

from cmk.agent.observed import Observed
from cmk.agent.wakeups import Wakeups
from cmk.agent.watches import Watches
from cmk.kube import events, reports, shapes
from cmk.kube import node as node_api
from cmk.kube.client import Api, ApiError, Json
from cmk.model.advertise import advertise, requested
from cmk.model.layout import Layout
from cmk.model.pods import Pod
from cmk.model.report import Reduction, Refusal

log = logging.getLogger(__name__)

FIRST_RETRY = 0.5
LAST_RETRY = 30.0
WITHDRAW_ATTEMPTS = 5
CONFLICT = 409
# The API server would refuse the same request again.
_PERMANENT = frozenset({400, 403, 404, 422})
# Refusals of a request as it is: not valid, or too large. etcd's own limit is lower than the API server's, which then answers 500.
_REFUSED = frozenset({400, 413, 422})
_TOO_LARGE = ("too large", "larger than max")
# After so long a whole report is tried again.
SECONDS_OF_REDUCTION = 600.0
# A report is derived data. A few changes are written soon after one another; when tasks come and go all the time it follows more slowly.
SECONDS_BETWEEN_REPORTS = 2.0
REPORTS_PER_MINUTE = 10
REPORTS_AT_ONCE = 5
# While the API server cannot be reached, the newest events are worth keeping.
MOST_EVENTS = 20


class Marks(msgspec.Struct, frozen=True):
    """What the Node should carry: lists per extended resource, and whether it is labelled and tainted."""

    resources: dict[str, int]
    label: bool = True
    taint: bool = True


class Retries:
    """The pace at which one thing is tried again: twice as slow after each failure, until it works."""

    def __init__(self, work: Callable[[], Awaitable[None]], wakeups: Wakeups) -> None:
        self._work, self._wakeups = work, wakeups
        self._delay, self._due = FIRST_RETRY, 0.0

    async def attempt(self) -> None:
        """Work, unless a failure was less than a delay ago."""
        loop = asyncio.get_running_loop()
        if (wait := self._due - loop.time()) > 0:
            self._wakeups.publish.wake_in(wait)
            return
        try:
            await self._work()
            self._delay = FIRST_RETRY
        except ApiError as error:
            wait = self._delay * random.uniform(0.5, 1.0)  # noqa: S311  # so that agents do not all retry at once
            log.warning("%s; again in %.1f s", error, wait)
            self._due = loop.time() + wait
            self._delay = min(self._delay * 2, LAST_RETRY)
            self._wakeups.publish.wake_in(wait)


class Pace:
    """The pace of reports: one in ``SECONDS_BETWEEN_REPORTS``, and in any minute ``REPORTS_PER_MINUTE`` and ``REPORTS_AT_ONCE`` at most."""

    def __init__(self) -> None:
        self._last = self._due = -math.inf

    def wait(self, now: float) -> float:
        """Seconds until the next report may be written, 0 or less if it may be now."""
        ahead = (REPORTS_AT_ONCE - 1) * 60 / REPORTS_PER_MINUTE
        return max(self._last + SECONDS_BETWEEN_REPORTS, self._due - ahead) - now

    def count(self, now: float) -> None:
        """A report has been written."""
        self._last, self._due = now, max(self._due, now) + 60 / REPORTS_PER_MINUTE


class Publisher:
    """``marks`` returns what the Node should carry, ``report`` the NodeReport's content, given the object as stored and what is refused.

    Both return None while that is not known: then the object stays as it is.
    """

    def __init__(
        self,
        api: Api,
        node: str,
        watches: Watches,
        wakeups: Wakeups,
        marks: Callable[[Observed], Marks | None],
        report: Callable[[Observed, Json | None, Refusal], Json | None],
    ) -> None:
        self._api = api
        self._node = node
        self._watches = watches
        self._wakeups = wakeups
        self._marks = marks
        self._report = report
        self._pace = Pace()
        self._written: Json | None = None
        self._events_before_write = -1
        self._refusal = Refusal()
        self._refusal_ends = 0.0
        self._events: deque[tuple[str, str, bool, Pod | None]] = deque(maxlen=MOST_EVENTS)
        self._patching = asyncio.Lock()

    def queue_event(self, reason: str, message: str, *, warning: bool = True, pod: Pod | None = None) -> None:
        """Send an Event about the Node, or about a pod, as soon as the API server takes it."""
        self._events.append((reason, message, warning, pod))
        self._wakeups.publish.wake()

    def queue_layout_warnings(self, layout: Layout) -> None:
        """Send an Event for each warning of a layout that the node has from now on."""
        for warning in layout.warnings:
            self.queue_event("LayoutWarning", warning)

    async def run(self) -> None:
        """Write whenever something has changed; does not return. Failures are retried at a growing pace."""
        steps = [Retries(work, self._wakeups) for work in (self._send_events, self.assert_node, self._assert_report)]
        while True:
            await self._wakeups.publish.wait()
            for step in steps:
                await step.attempt()

    async def withdraw(self) -> bool:
        """Remove resource, label, taint and report; returns False if a bound pod still needs the resource. Raises ApiError."""
        for attempt in range(WITHDRAW_ATTEMPTS):
            node = self._checked(await asyncio.to_thread(self._api.get, node_api.path_of(self._node)))
            pods = [pod for _, pod in self._watches.pods.read(await self._watches.list_pods())]  # the watch may be behind
            needed = {name for name, count in node_api.advertised(node).items() if requested(pods, name, count)}
            if needed:
                names = ", ".join(sorted(needed))
                log.warning("node %s is not selected any more, but stays as it is: bound pods still need %s", self._node, names)
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
        """Write resource, label and taint to the Node if they are not as they should be. Raises ApiError."""
        async with self._patching:
            observed = self._watches.observed
            marks, node = self._marks(observed), observed.node
            if marks is not None and node is not None:
                await self._patch(node, marks, advertise(marks.resources, node_api.advertised(node), _bound(observed)))

    async def _patch(self, node: Json, marks: Marks, resources: Mapping[str, int]) -> None:
        if patch := node_api.status_patch(node, resources):
            node = self._checked(await asyncio.to_thread(node_api.apply_status, self._api, self._node, patch))
            log.info("node %s advertises %s", self._node, dict(resources) or "no CPU lists")
        if patch := node_api.marks_patch(node, label=marks.label, taint=marks.taint):
            await asyncio.to_thread(node_api.apply_marks, self._api, self._node, patch)
            log.info("node %s: label %s, taint %s", self._node, marks.label, marks.taint)

    async def _send_events(self) -> None:
        while self._events:
            reason, message, warning, pod = event = self._events[0]
            try:
                await asyncio.to_thread(events.send, self._api, self._node, reason, message, warning=warning, pod=pod)
            except ApiError as error:
                if error.status not in _PERMANENT:
                    raise
                log.warning("event %s: %s", reason, error)  # its namespace is being deleted
            if self._events[0] is event:  # else newer ones have taken its place meanwhile
                self._events.popleft()

    def _checked(self, node: Json) -> Json:
        return shapes.check(node, shapes.NodeShape, f"the answer about node {self._node}")

    async def _assert_report(self) -> None:
        """Write the report; after a refusal a reduced one, until there is nothing left to leave out."""
        loop = asyncio.get_running_loop()
        if self._refusal.reduction is not Reduction.NONE and loop.time() >= self._refusal_ends:
            self._refusal = Refusal()
        while True:
            try:
                await self._write_report()
            except ApiError as error:
                if not _is_refusal(error) or self._refusal.reduction is max(Reduction):
                    raise
                self._refusal = Refusal(Reduction(self._refusal.reduction + 1), str(error))
                self._refusal_ends = loop.time() + SECONDS_OF_REDUCTION
                log.warning("%s; the report is reduced", error)
            else:
                break
        if self._refusal.reduction is not Reduction.NONE:
            self._wakeups.publish.wake_in(max(self._refusal_ends - loop.time(), 0))

    async def _write_report(self) -> None:
        observed, loop = self._watches.observed, asyncio.get_running_loop()
        # Before the report is made: this runs after each allocation, and it tells of every task.
        if (wait := self._pace.wait(loop.time())) > 0:
            self._wakeups.publish.wake_in(wait)
            return
        # Until the watch says something of the report after our last write, ours is what is stored.
        stored = self._written if observed.report_events == self._events_before_write else observed.report
        body = self._report(observed, stored, self._refusal)
        if body is None or not observed.report_known or reports.is_current(body, stored):
            return
        self._written = await asyncio.to_thread(reports.put, self._api, self._node, body, stored)
        self._events_before_write = observed.report_events
        self._pace.count(loop.time())


def _bound(observed: Observed) -> Iterable[Pod] | None:
    """The pods bound to the node; None while they are not known."""
    return observed.pods.values() if observed.pods_known else None


def _is_refusal(error: ApiError) -> bool:
    return error.status in _REFUSED or (error.status >= 500 and any(words in str(error) for words in _TOO_LARGE))
