"""The loop that changes the node's pools to what the configuration asks for, under running tasks, or says what prevents it.

In this order: lists that go are frozen and the node's resource is lowered (never below what bound pods request); the pods are listed again,
for another may have been bound meanwhile; then it is planned, and from then on nothing is allocated that the change concerns, until it has
ended; resources that grow are advertised last.
"""

from __future__ import annotations

import asyncio
import logging
import random
from time import monotonic

import msgspec

from cmk.agent.history import APPLIED, History
from cmk.agent.node_layout import Impossible, NodeLayout, Outdated, Same, Wanted
from cmk.agent.observed import Observed
from cmk.agent.publisher import Publisher
from cmk.agent.rollout_limit import RolloutLimit
from cmk.agent.service import Service
from cmk.agent.wakeups import Wakeups
from cmk.agent.watches import Watches
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


class Pending(msgspec.Struct, frozen=True):
    """Why the configuration with this hash is not applied, as the NodeReport shows it."""

    reason: Obstacle
    text: str
    hash: str


class ChangePools:
    """``pending`` is None while nothing prevents the configuration. ``coming`` is the layout that the node is about to get, if any."""

    def __init__(
        self,
        layout: NodeLayout,
        service: Service,
        watches: Watches,
        publisher: Publisher,
        history: History,
        limit: RolloutLimit,
        wakeups: Wakeups,
    ) -> None:
        self._layout = layout
        self._service = service
        self._watches = watches
        self._publisher = publisher
        self._history = history
        self._limit = limit
        self._wakeups = wakeups
        self._failed: tuple[str, Plan] | None = None
        self._changing: asyncio.Task[None] | None = None
        self.pending: Pending | None = None
        self.coming: Layout | None = None

    async def run(self) -> None:
        """Change the pools whenever there is something to change; does not return. Raises StateError."""
        while True:
            await self._wakeups.change.wait()
            try:
                await self._attempt()
            except ApiError as error:
                log.warning("cannot change pools yet: %s", error)
                self._wakeups.change.wake_in(SECONDS_AFTER_ERROR)
            finally:
                if self._changing is not None:  # it goes on when this is cancelled
                    await asyncio.wait({self._changing})
                await self._limit.release()

    async def _attempt(self) -> None:
        observed = self._watches.observed
        match self._layout.wanted(observed):
            case Wanted(saved) if observed.pods_known:
                await self._change_to(saved, observed)
                return
            case Outdated() as outdated if observed.pods_known:
                await self._follow_machine(outdated, observed)
                return
            case Same(saved):
                self._keep(saved)
            case Impossible(reason, text, hash_):
                self._hold(reason, text, hash_)
        self._aim(None)

    async def _follow_machine(self, outdated: Outdated, observed: Observed) -> None:
        """Change the pools as the machine has changed, unless owners would have to move: the pools follow as they end."""
        saved = outdated.saved
        if outdated.kept != self._layout.saved and not self._keep(outdated.kept):
            return
        if saved is None:
            self._aim(None)
            self._hold_for_machine(outdated, "the pools stay as they were")
        elif saved.section.paused:
            self._aim(None)
            self._hold_for_machine(outdated, "nothing is done about it, for paused is true")
        elif planner.moves_owners(self._plan(saved, observed), self._service.ledger.layout):
            self._aim(saved.layout)
            self._hold_for_machine(outdated, "the pools follow when those end that hold cores of the old ones")
        else:
            await self._change_to(saved, observed, keeps_owners=True)

    def _hold_for_machine(self, outdated: Outdated, then: str) -> None:
        self._hold(Obstacle.MACHINE_CHANGED, f"{outdated.text}; {then}", outdated.kept.section.hash)

    async def _change_to(self, wanted: SavedLayout, observed: Observed, *, keeps_owners: bool = False) -> None:
        plan, hash_ = self._plan(wanted, observed), wanted.section.hash
        if wanted.section.paused:
            self._aim(None)
            self._hold(Obstacle.PAUSED, f"{_asked(wanted)} is on hold, for paused is true: {summary(plan)}", hash_)
            return
        self._aim(wanted.layout)
        if plan.refusals:
            self._refuse(wanted, plan)
            return
        if (hash_, plan) == self._failed:
            return
        await self._publisher.assert_node()
        if waiting := await self._limit.acquire(wanted.section.max_unavailable):
            self._hold(Obstacle.WAITING, f"{_asked(wanted)} waits {waiting}", hash_)
            # Not all nodes of a large cluster at once.
            self._wakeups.change.wake_in(SECONDS_AFTER_ERROR * random.uniform(1, 5))  # noqa: S311
            return
        await self._watches.pods.refresh()
        observed = self._watches.observed
        answer = self._layout.wanted(observed)
        if not isinstance(answer, Wanted | Outdated) or answer.saved != wanted:
            self._wakeups.change.wake()
            return
        self._changing = asyncio.get_running_loop().create_task(self._plan_and_change(wanted, keeps_owners=keeps_owners))
        await asyncio.shield(self._changing)

    async def settled(self) -> None:
        """Wait for the end of a change that has begun, also when ``run`` has been cancelled meanwhile. Raises StateError."""
        if self._changing is not None:
            await self._changing

    def give_up(self) -> None:
        """Leave a change that has begun to the next agent, as if this one had been killed."""
        if self._changing is not None:
            self._changing.cancel()

    async def _plan_and_change(self, wanted: SavedLayout, *, keeps_owners: bool) -> None:
        """Nothing comes between the plan and the beginning of the change: whatever was allocated there would not be in the plan."""
        plan = self._plan(wanted, self._watches.observed)
        if keeps_owners and planner.moves_owners(plan, self._service.ledger.layout):  # one has come since
            self._wakeups.change.wake()
        elif plan.refusals:
            self._refuse(wanted, plan)
        else:
            await self._change(wanted, plan)

    def _plan(self, wanted: SavedLayout, observed: Observed) -> Plan:
        ledger = self._service.ledger
        return planner.plan(ledger.layout, wanted.layout, ledger.tasks.values(), observed.active_pods)

    def _keep(self, saved: SavedLayout) -> bool:
        """Save the configuration from which the pools come now; returns whether that was possible."""
        before, pending = self._layout.saved, self.pending
        try:
            self._layout.keep(saved)
        except StateError as error:
            self._hold(Obstacle.WAITING, str(error), saved.section.hash)
            self._wakeups.change.wake_in(SECONDS_BETWEEN_ATTEMPTS)
            return False
        self.pending = None
        if before is not None and saved.layout.warnings != before.layout.warnings:
            self._publisher.queue_layout_warnings(saved.layout)
        if pending is not None or saved != before:
            self._wakeups.publish.wake()
        return True

    async def _change(self, wanted: SavedLayout, plan: Plan) -> None:
        before = self._layout.saved
        if before is None:
            raise RuntimeError("a service has a layout")
        began = monotonic()
        try:
            change = await self._service.change(before, wanted, plan)
        except (ChangeError, NoRoomError) as error:
            self._failed = wanted.section.hash, plan
            asyncio.get_running_loop().call_later(SECONDS_BETWEEN_ATTEMPTS, self._forget_failure)
            self._service.ledger.freeze(self.coming)  # what _aim began goes on: the ledger has ended it with the change
            outcome = "undone" if isinstance(error, ChangeError) else "refused"
            self._record_refusal(wanted, outcome, str(error), _milliseconds_since(began))
            return
        self._failed = self.coming = self.pending = None  # the ledger has ended what _aim began
        self._layout.replace(wanted)
        self._history.add(before.section.hash, wanted.section.hash, len(plan.moves), _milliseconds_since(began), APPLIED)
        text = f"pools are as {_asked(wanted)} asks; {len(plan.moves)} tasks moved, {len(plan.keeps)} stayed"
        log.info("%s, in %d ms", text, _milliseconds_since(began))
        self._publisher.queue_event("PoolsChanged", text, warning=False)
        for move in plan.moves:
            if (pod := self._watches.pods.get(move.task.pod)) and move.old != move.new:
                self._publisher.queue_event("CpusMoved", planner.describe(move), warning=False, pod=pod)
        self._publisher.queue_layout_warnings(wanted.layout)
        await self._service.settle(change)

    def _refuse(self, wanted: SavedLayout, plan: Plan) -> None:
        self._record_refusal(wanted, "refused", "; ".join(refusal.text for refusal in plan.refusals), milliseconds=0)

    def _record_refusal(self, wanted: SavedLayout, outcome: str, text: str, milliseconds: int) -> None:
        saved, hash_ = self._layout.saved, wanted.section.hash
        self._hold(Obstacle.CONFIG_REFUSED, f"{_asked(wanted)} is {outcome}, the pools stay as they were: {text}", hash_)
        self._history.add(saved.section.hash if saved else "", hash_, 0, milliseconds, f"{outcome}: {text}")

    def _hold(self, reason: Obstacle, text: str, hash_: str) -> None:
        """Keep the pools although the configuration asks for others, and say why: in the report, and once in log and events."""
        before, self.pending = self.pending, Pending(reason, text, hash_)
        if (before is None or text != before.text) and reason is not Obstacle.WAITING:
            log.warning("%s: %s", reason, text)
            self._publisher.queue_event(reason, text)
        if self.pending != before:
            self._wakeups.publish.wake()

    def _forget_failure(self) -> None:
        self._failed = None
        self._wakeups.change.wake()

    def _aim(self, coming: Layout | None) -> None:
        """Stop handing out lists that ``coming`` lacks, and advertising more of them than pods need."""
        if coming != self.coming:
            self.coming = coming
            self._service.ledger.freeze(coming)
            self._wakeups.publish.wake()


def summary(plan: Plan) -> str:
    """A plan in one sentence."""
    if plan.refusals:
        return "it would be refused, " + "; ".join(refusal.text for refusal in plan.refusals)
    return f"{len(plan.moves)} tasks would move, {len(plan.keeps)} stay"


def _asked(wanted: SavedLayout) -> str:
    return f"configuration {wanted.section.hash} of {wanted.scope}"


def _milliseconds_since(began: float) -> int:
    return round((monotonic() - began) * 1000)
