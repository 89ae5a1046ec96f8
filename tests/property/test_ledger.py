"""Allocation and release in any order: no exclusive list with two owners, no grant exceeded, nothing lost, and every answer that of a
ledger without an index.
"""

from collections.abc import Callable

import hypothesis.strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from cmk.model.cgroup_path import PodContainer
from cmk.model.choice import Refused
from cmk.model.config import PoolConfig
from cmk.model.layout import Layout, compute
from cmk.model.ledger import Ledger
from cmk.model.pods import Pod, resource_of
from cmk.model.tasks import Process, Request
from tests.property.plain_ledger import PlainLedger
from tests.unit.machines import machine


def layout_of(exclusive: int) -> Layout:
    pools = {
        "exclusive": PoolConfig(exclusive, exclusive=True, mode="spread"),
        "shared": PoolConfig(2),
        "infra": PoolConfig("rest"),
    }
    return compute(machine(sockets=2, cores=4), pools)


LAYOUT = layout_of(4)
PODS = [Pod(f"uid{count}", "ns", f"pod{count}", {resource_of("exclusive"): count}) for count in range(4)]
TASKS_PER_POD = 6


def answer(allocate: Callable[[], tuple[str, ...]]) -> tuple[str, ...] | bool:
    """The lists that a request gets, or whether its refusal is final."""
    try:
        return allocate()
    except Refused as refusal:
        return refusal.final


class LedgerMachine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.ledger = Ledger(LAYOUT, tasks_per_pod=TASKS_PER_POD)
        self.plain = PlainLedger(LAYOUT, TASKS_PER_POD)
        self.next_pid = 1

    @rule(
        pod=st.sampled_from([*PODS, None]),
        pool=st.sampled_from(["exclusive", "shared", "infra", "none"]),
        cores=st.integers(0, 4),
        socket=st.integers(-1, 2),
        reuse=st.booleans(),
        moved=st.booleans(),
    )
    def allocate(self, pod: Pod | None, pool: str, cores: int, socket: int, reuse: bool, moved: bool) -> None:
        process = Process(self.next_pid, 7)
        if reuse and self.ledger.tasks:
            process = min(self.ledger.tasks)
            if not moved:
                pod = next((known for known in PODS if known.uid == self.ledger.tasks[process].pod), None)
        else:
            self.next_pid += 1
        before = dict(self.ledger.tasks)
        request = Request(pool, process, cores, socket, pod)
        expected = answer(lambda: self.plain.allocate(request))
        assert answer(lambda: self.ledger.allocate(request).lists) == expected
        if isinstance(expected, bool):
            assert dict(self.ledger.tasks) == before
            return
        task = self.ledger.tasks[process]
        assert len(task.lists) == (cores if pool == "exclusive" else 1)
        assert self.ledger.allocate(Request(pool, process, cores, socket, pod)) == task

    @rule(number=st.integers(0, 100))
    def release(self, number: int) -> None:
        if self.ledger.tasks:
            process = sorted(self.ledger.tasks)[number % len(self.ledger.tasks)]
            assert self.ledger.release(process) == self.plain.tasks.pop(process)
            assert self.ledger.release(process) is None

    @rule(exclusive=st.sampled_from([None, 1, 2]))
    def freeze(self, exclusive: int | None) -> None:
        coming = layout_of(exclusive) if exclusive else None
        self.ledger.freeze(coming)
        self.plain.freeze(coming)

    @rule()
    def restart(self) -> None:
        again = Ledger(LAYOUT, tasks_per_pod=TASKS_PER_POD)
        assert all(again.restore(task) for task in self.ledger.tasks.values())
        assert again.tasks == self.ledger.tasks
        self.ledger = again
        self.plain.freeze(None)

    @rule()
    def end_a_change(self) -> None:
        self.ledger.end(LAYOUT, list(self.ledger.tasks.values()))
        self.plain.freeze(None)

    @invariant()
    def one_owner_per_exclusive_list(self) -> None:
        assert all(len(tasks) <= 1 for tasks in self.ledger.users("exclusive").values())

    @invariant()
    def no_grant_is_exceeded(self) -> None:
        assert all(self.ledger.held(pod.uid, "exclusive") <= pod.grants[resource_of("exclusive")] for pod in PODS)

    @invariant()
    def the_index_tells_what_the_tasks_tell(self) -> None:
        assert self.ledger.tasks == self.plain.tasks
        open_in: dict[PodContainer, frozenset[int]] = {}
        for task in self.ledger.tasks.values():
            container = PodContainer(task.pod, task.container)
            open_in[container] = open_in.get(container, frozenset()) | self.ledger.open_to(task)
        assert self.ledger.open_in_containers() == open_in
        for pool in LAYOUT.pools:
            users = {name: {task.process for task in tasks} for name, tasks in self.ledger.users(pool).items()}
            assert users == self.plain.users(pool)
            assert [self.ledger.held(pod.uid, pool) for pod in PODS] == [self.plain.held(pod.uid, pool) for pod in PODS]


TestLedger = LedgerMachine.TestCase
