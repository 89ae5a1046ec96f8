"""Brings the pools of a node to what the configuration asks for, under its running tasks, or says what is in the way.

In this order: lists that go are frozen and the node's resource is lowered (never below what bound pods request); the pods are listed again,
for one may have been bound meanwhile; then plan and change are one piece that no allocation comes between; what grows is advertised last.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable
from time import monotonic

from cmk.agent.history import APPLIED, History
from cmk.agent.node_layout import NodeLayout
from cmk.agent.publisher import Publisher
from cmk.agent.rollout_limit import RolloutLimit
from cmk.agent.service import Service
from cmk.agent.watches import ClusterView, see
from cmk.host.journal import ChangeError
from cmk.host.state import StateError
from cmk.kube.client import ApiError
from cmk.model import plan as planner
from cmk.model.layout import Layout, SavedLayout
from cmk.model.order import NoRoomError
from cmk.model.plan import Plan
from cmk.model.reasons import Obstacle

log = logging.getLogger(__name__)

SECONDS_BETWEEN_ATTEMPTS = 30.0
SECONDS_AFTER_ERROR = 2.0


class Reconfigure:
    """``service`` tells what serves the node, None before anything does. ``coming`` is the layout that the node is to have, if another."""

    def __init__(
        self,
        layout: NodeLayout,
        view: ClusterView,
        publisher: Publisher,
        history: History,
        limit: RolloutLimit,
        service: Callable[[], Service | None],
    ) -> None:
        self._layout = layout
        self._view = view
        self._publisher = publisher
        self._history = history
        self._limit = limit
        self._service = service
        self._dirty = asyncio.Event()
        self._failed: tuple[str, Plan] | None = None
        self.coming: Layout | None = None

    def poke(self) -> None:
        """Something changed: look again."""
        self._dirty.set()

    async def run(self) -> None:
        """Change for ever, whenever there is something to change. Raises StateError."""
        while True:
            await self._dirty.wait()
            self._dirty.clear()
            try:
                await self._attempt()
            except ApiError as error:
                log.warning("pools wait to be changed: %s", error)
                asyncio.get_running_loop().call_later(SECONDS_AFTER_ERROR, self.poke)
            finally:
                await self._limit.release()

    async def _attempt(self) -> None:
        service, wanted = self._service(), self._layout.wanted(see(self._view))
        if service is None or wanted is None or not self._view.pods_known:
            self._aim(service, None)
            return
        if self._takes(wanted):
            self._aim(service, None)
            return
        found = self._plan(service, wanted)
        if wanted.section.paused:
            self._aim(service, None)
            self._layout.pend(Obstacle.PAUSED, f"{_asked(wanted)} waits, for paused is true: {summary(found)}", wanted.section)
            self._publisher.poke()
            return
        self._aim(service, wanted.layout)
        if not self._is_possible(wanted, found) or (wanted.section.hash, found) == self._failed:
            return
        await self._publisher.assert_node()
        if waiting := await self._limit.acquire(wanted.section.max_unavailable):
            self._layout.pend(Obstacle.WAITING, f"{_asked(wanted)} waits {waiting}", wanted.section)
            # Not all nodes of a large cluster at once.
            asyncio.get_running_loop().call_later(SECONDS_AFTER_ERROR * random.uniform(1, 5), self.poke)  # noqa: S311
            return
        self._view.pods.listed(await self._view.list_pods())
        if self._layout.wanted(see(self._view)) != wanted:
            self.poke()
            return
        found = self._plan(service, wanted)
        if self._is_possible(wanted, found):
            self._make(service, wanted, found)

    def _takes(self, wanted: SavedLayout) -> bool:
        try:
            return self._layout.takes(wanted)
        except StateError as error:
            self._layout.pend(Obstacle.WAITING, str(error), wanted.section)
            asyncio.get_running_loop().call_later(SECONDS_BETWEEN_ATTEMPTS, self.poke)
            return True

    def _plan(self, service: Service, wanted: SavedLayout) -> Plan:
        pods = [pod for pod in self._view.pods.all.values() if not pod.terminal]
        ledger = service.ledger
        return planner.plan(ledger.layout, wanted.layout, ledger.tasks.values(), pods)

    def _is_possible(self, wanted: SavedLayout, found: Plan) -> bool:
        if found.refusals:
            self._refuse(wanted, "; ".join(refusal.text for refusal in found.refusals))
        return not found.refusals

    def _make(self, service: Service, wanted: SavedLayout, found: Plan) -> None:
        saved = self._layout.saved
        if saved is None:
            raise RuntimeError("a service has a layout")
        began = monotonic()
        try:
            service.change(saved, wanted, found)
        except (ChangeError, NoRoomError) as error:
            self._failed = wanted.section.hash, found
            asyncio.get_running_loop().call_later(SECONDS_BETWEEN_ATTEMPTS, self._try_again)
            self._refuse(wanted, str(error), "undone" if isinstance(error, ChangeError) else "refused", _since(began))
            return
        self._failed = self.coming = None
        self._layout.took(wanted)
        self._history.add(saved.section.hash, wanted.section.hash, len(found.moves), _since(began), APPLIED)
        text = f"pools are as {_asked(wanted)} asks; {len(found.moves)} tasks moved, {len(found.keeps)} stayed"
        log.info("%s, in %d ms", text, _since(began))
        self._publisher.tell("PoolsChanged", text, warning=False)
        for move in found.moves:
            if (pod := self._view.pods.get(move.task.pod)) and move.old != move.new:
                self._publisher.tell("CpusMoved", planner.describe(move), warning=False, pod=pod)
        self._publisher.poke()

    def _refuse(self, wanted: SavedLayout, text: str, outcome: str = "refused", milliseconds: int = 0) -> None:
        saved = self._layout.saved
        refused = f"{_asked(wanted)} is {outcome}, the pools stay as they were: {text}"
        self._layout.pend(Obstacle.CONFIG_REFUSED, refused, wanted.section)
        self._history.add(saved.section.hash if saved else "", wanted.section.hash, 0, milliseconds, f"{outcome}: {text}")
        self._publisher.poke()

    def _try_again(self) -> None:
        self._failed = None
        self.poke()

    def _aim(self, service: Service | None, coming: Layout | None) -> None:
        if coming == self.coming or service is None:
            return
        self.coming = coming
        service.ledger.freeze(coming)
        self._publisher.poke()


def summary(found: Plan) -> str:
    """A plan in a few words."""
    if found.refusals:
        return "it would be refused, " + "; ".join(refusal.text for refusal in found.refusals)
    return f"{len(found.moves)} tasks would move, {len(found.keeps)} stay"


def _asked(wanted: SavedLayout) -> str:
    return f"configuration {wanted.section.hash} of {wanted.scope}"


def _since(began: float) -> int:
    return round((monotonic() - began) * 1000)
