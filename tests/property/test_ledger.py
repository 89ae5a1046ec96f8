"""Allocation and release in any order: no exclusive list with two owners, no grant exceeded, nothing lost."""

import hypothesis.strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from cmk.model.choice import Refused
from cmk.model.config import PoolConfig
from cmk.model.layout import compute
from cmk.model.ledger import Ledger
from cmk.model.pods import Pod, resource_of
from cmk.model.tasks import Process, Request
from tests.unit.machines import machine

LAYOUT = compute(
    machine(sockets=2, cores=4),
    {"exclusive": PoolConfig(4, exclusive=True, mode="spread"), "shared": PoolConfig(2), "infra": PoolConfig("rest")},
)
PODS = [Pod(f"uid{count}", "ns", f"pod{count}", {resource_of("exclusive"): count}) for count in range(4)]


class LedgerMachine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.ledger = Ledger(LAYOUT)
        self.next_pid = 1

    @rule(
        pod=st.sampled_from([*PODS, None]),
        pool=st.sampled_from(["exclusive", "shared", "infra", "none"]),
        cores=st.integers(0, 4),
        socket=st.integers(-1, 2),
        reuse=st.booleans(),
    )
    def allocate(self, pod: Pod | None, pool: str, cores: int, socket: int, reuse: bool) -> None:
        process = Process(self.next_pid, 7)
        if reuse and self.ledger.tasks:
            process = min(self.ledger.tasks)
            pod = next((known for known in PODS if known.uid == self.ledger.tasks[process].pod), None)
        else:
            self.next_pid += 1
        before = dict(self.ledger.tasks)
        try:
            task = self.ledger.allocate(Request(pool, process, cores, socket, pod))
        except Refused:
            assert dict(self.ledger.tasks) == before
            return
        assert self.ledger.tasks[process] == task
        assert len(task.lists) == (cores if pool == "exclusive" else 1)
        assert self.ledger.allocate(Request(pool, process, cores, socket, pod)) == task

    @rule(number=st.integers(0, 100))
    def release(self, number: int) -> None:
        if self.ledger.tasks:
            process = sorted(self.ledger.tasks)[number % len(self.ledger.tasks)]
            assert self.ledger.release(process) is not None
            assert self.ledger.release(process) is None

    @rule()
    def restart(self) -> None:
        again = Ledger(LAYOUT)
        assert all(again.restore(task) for task in self.ledger.tasks.values())
        assert again.tasks == self.ledger.tasks
        self.ledger = again

    @invariant()
    def one_owner_per_exclusive_list(self) -> None:
        assert all(len(tasks) <= 1 for tasks in self.ledger.users("exclusive").values())

    @invariant()
    def no_grant_is_exceeded(self) -> None:
        assert all(self.ledger.held(pod.uid, "exclusive") <= pod.grants[resource_of("exclusive")] for pod in PODS)


TestLedger = LedgerMachine.TestCase
