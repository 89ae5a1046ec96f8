"""A node's life: tasks come and go, pods are bound and end, pools change; after thousands of steps everything is as it must be."""

from __future__ import annotations

import hypothesis.strategies as st
import msgspec
from hypothesis import HealthCheck, settings
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from cmk.model.advertise import demand
from cmk.model.choice import ANY_SOCKET, Refused
from cmk.model.layout import Layout
from cmk.model.ledger import Ledger
from cmk.model.onmove import How, OnMove
from cmk.model.order import NoRoomError, ordered_steps
from cmk.model.plan import plan
from cmk.model.pods import Pod, resource_of
from cmk.model.tasks import Process, Request
from tests.property.test_plan import KINDS, layouts

CORES = 8
EXCLUSIVE = [name for name, exclusive in KINDS.items() if exclusive]


class Node(RuleBasedStateMachine):
    """``now`` is where each task runs and whether it is alone there: what the kernel would say."""

    @initialize(layout=layouts(CORES))
    def start(self, layout: Layout) -> None:
        self.ledger = Ledger(layout, require_grant=False)
        self.pods: dict[str, Pod] = {}
        self.next = 1
        self.now: dict[Process, frozenset[int]] = {}

    @rule(
        data=st.data(), pool=st.sampled_from(sorted(KINDS)), cores=st.integers(1, 2), socket=st.sampled_from([ANY_SOCKET, 0, 1])
    )
    def isolate(self, data: st.DataObject, pool: str, cores: int, socket: int) -> None:
        pod = self.pods[data.draw(st.sampled_from(sorted(self.pods)))] if self.pods else None
        how = OnMove(data.draw(st.sampled_from([How.FOLLOW, How.FOLLOW, How.FOLLOW, How.NOTIFY, How.PINNED])))
        process = Process(self.next, 1)
        try:
            task = self.ledger.allocate(Request(pool, process, cores, socket, pod, f"c{self.next}", how))
        except Refused:
            return
        self.next += 1
        self.now[process] = self.ledger.cpus_of(task)

    @precondition(lambda self: self.ledger.tasks)
    @rule(data=st.data())
    def end(self, data: st.DataObject) -> None:
        process = data.draw(st.sampled_from(sorted(self.ledger.tasks)))
        self.ledger.release(process)
        del self.now[process]

    @rule(pool=st.sampled_from(EXCLUSIVE), cores=st.integers(0, 2))
    def bind(self, pool: str, cores: int) -> None:
        """A pod is bound, as many as the resource lets in."""
        have = len(self.ledger.layout.pools[pool].lists) if pool in self.ledger.layout.pools else 0
        bound = demand(pool, self.ledger.tasks.values(), self.pods.values(), have)
        if sum(bound.values()) + cores <= have:
            uid = f"u{self.next}"
            self.next += 1
            self.pods[uid] = Pod(uid, "ns", uid, {resource_of(pool): cores} if cores else {})

    @precondition(lambda self: self.pods)
    @rule(data=st.data())
    def finish(self, data: st.DataObject) -> None:
        """A pod ends, and its tasks with it."""
        uid = data.draw(st.sampled_from(sorted(self.pods)))
        del self.pods[uid]
        for process in [process for process, task in self.ledger.tasks.items() if task.pod == uid]:
            self.ledger.release(process)
            del self.now[process]

    @rule(new=layouts(CORES))
    def change(self, new: Layout) -> None:
        old, tasks = self.ledger.layout, dict(self.ledger.tasks)
        planned = plan(old, new, tasks.values(), self.pods.values())
        if planned.refusals:
            assert (planned.keeps, planned.moves) == ((), ())
            assert (self.ledger.layout, dict(self.ledger.tasks)) == (old, tasks), "who refuses changes nothing"
            return
        try:
            steps = ordered_steps(planned, old, new)
        except NoRoomError:
            return
        assert not [move for move in planned.moves if move.task.on_move.how is How.PINNED and move.old != move.new]
        kinds = {process: new.pools[task.pool].exclusive for process, task in tasks.items()}
        alone = dict(kinds)
        for step in steps:
            self.now[step.process] = step.cpus
            alone[step.process] = step.last and kinds[step.process]
            for process, cpus in self.now.items():
                for other, others in self.now.items():
                    assert process == other or not cpus & others or not (alone[process] or alone[other])
        after = [*planned.keeps, *(move.after for move in planned.moves)]
        assert {task.process for task in after} == tasks.keys(), "nobody is lost"
        assert all(task.generation == tasks[task.process].generation + (task not in planned.keeps) for task in after)
        self.ledger.end(new, after)
        again = plan(new, new, after, self.pods.values())
        assert (again.moves, again.refusals) == ((), ())

    @precondition(lambda self: self.ledger.tasks)
    @rule(new=layouts(CORES))
    def refuse(self, new: Layout) -> None:
        """A change that waits: lists that stay are handed out first, those that go to bound pods alone."""
        self.ledger.freeze(new)
        going = {
            (name, item.name)
            for name, pool in self.ledger.layout.pools.items()
            for item in pool.lists
            if name not in new.pools or item not in new.pools[name].lists
        }
        for pool in EXCLUSIVE:
            stranger = Request(pool, Process(10**6, 1))
            try:
                task = self.ledger.allocate(stranger)
            except Refused:
                continue
            assert not going & {(pool, name) for name in task.lists}
            self.ledger.release(stranger.process)
        self.ledger.freeze(None)

    @invariant()
    def books_and_kernel_agree(self) -> None:
        ledger = getattr(self, "ledger", None)
        if ledger is None:
            return
        assert self.now == {process: ledger.cpus_of(task) for process, task in ledger.tasks.items()}
        for name, pool in ledger.layout.pools.items():
            if pool.exclusive:
                assert all(len(tasks) <= 1 for tasks in ledger.users(name).values())
        fresh = Ledger(ledger.layout)
        assert all(fresh.restore(msgspec.structs.replace(task)) for task in ledger.tasks.values())


TestNode = Node.TestCase
TestNode.settings = settings(
    deadline=None,
    max_examples=120,
    stateful_step_count=50,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)
