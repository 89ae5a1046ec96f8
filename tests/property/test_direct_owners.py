"""The life of a host in direct mode, with a kill -9 at any write: no core in two hands, no owner lost, nobody pinned who did not ask."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterable
from pathlib import Path
from time import monotonic

import hypothesis.strategies as st
from hypothesis import HealthCheck, settings
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from cmk.direct.pools import ConfDir
from cmk.host.journal import ChangeError
from cmk.host.procfs import Procfs
from cmk.isolate import local
from cmk.isolate.say import Failure
from cmk.model.choice import Refused
from cmk.model.config import Section
from cmk.model.layout import CpuList, Layout, Pool, SavedLayout
from cmk.model.order import NoRoomError
from cmk.model.topology import Topology
from tests.property.fakehost import FakeHost, FakeProcess

CORES = [frozenset({core, core + 8}) for core in range(5)]
ALL = frozenset().union(*CORES)
WHICH = st.integers(0, 99)
KILLS = st.one_of(st.just(-1), st.integers(0, 40))


def saved(first: tuple[int, ...], second: tuple[int, ...]) -> SavedLayout:
    """Two exclusive pools with these cores, all others for infra."""
    rest = ALL - frozenset().union(*(CORES[core] for core in (*first, *second)))
    pools = {
        "first": Pool("first", True, tuple(CpuList(CORES[core], 0) for core in sorted(first))),
        "second": Pool("second", True, tuple(CpuList(CORES[core], 0) for core in sorted(second))),
        "infra": Pool("infra", False, (CpuList(rest, 0),)),
    }
    return SavedLayout(Layout(pools), Section({}, f"{first} {second}"), "test", Topology(()))


LAYOUTS = st.permutations(range(4)).flatmap(
    lambda cores: st.tuples(st.integers(0, 2), st.integers(0, 2)).map(
        lambda size: saved(tuple(cores[: size[0]]), tuple(cores[2 : 2 + size[1]]))
    )
)


def pick(which: int, pids: Iterable[int]) -> int:
    """One of several pids."""
    ordered = sorted(pids)
    return ordered[which % len(ordered)]


class Grant:
    """What one isolate has given: ``members`` are pid and start of the process and of its descendants."""

    def __init__(self, process: FakeProcess, pool: str) -> None:
        self.members, self.pool = {(process.pid, process.start)}, pool


class Directory(RuleBasedStateMachine):
    """``grants`` has the processes that are somebody's; ``strangers`` the masks of those that never asked."""

    @initialize(layout=LAYOUTS)
    def begin(self, layout: SavedLayout) -> None:
        self.root = Path(tempfile.mkdtemp(prefix="cmk", dir="/dev/shm"))
        self.host = FakeHost(self.root, ALL)
        self.directory = self.root / "conf"
        self.shells = [self.host.start(1).pid, self.host.start(1).pid]
        self.admin = self.host.start(self.shells[0]).pid
        self.grants: dict[int, Grant] = {}
        self.strangers: dict[int, frozenset[int]] = {}
        self.host.ticks += 1
        self.command(-1, lambda state: state.create(layout))

    def command(self, left: int, function) -> bool:  # type: ignore[no-untyped-def]  # noqa: ANN001
        """An administrator's command, killed after so many calls."""

        def locked() -> None:
            self.directory.mkdir(exist_ok=True)
            with local.Lock(str(self.directory), monotonic()):
                function(ConfDir(self.directory, Procfs(self.host.proc)))

        return self.host.run(self.admin, locked, left)

    @rule(
        which=WHICH, again=st.booleans(), pool=st.sampled_from(["first", "second", "infra"]), cores=st.integers(1, 2), left=KILLS
    )
    def isolate(self, which: int, again: bool, pool: str, cores: int, left: int) -> None:
        """By a new process of the first shell or of somebody's, or by somebody again."""
        if again and self.grants:
            process = self.host.processes[pick(which, self.grants)]
        else:
            process = self.host.start(pick(which, {self.shells[0], *self.grants}))
        previous, had = self.grants.pop(process.pid, None), self.lists_of(process.pid)
        if process.first_ended:  # exec leaves the calling thread alone, as the first one
            self.host.end(process.pid)
            return
        try:
            alive = self.host.run(
                process.pid,
                lambda: local.isolate(str(self.directory), pool, cores, -1, pin=True, seconds=0, procfs=str(self.host.proc)),
                left,
            )
        except Failure:
            alive = False
        if alive:
            stays = previous and previous.pool == pool and had and had <= self.lists_of(process.pid)
            if not (stays and previous):
                if previous:
                    previous.members.discard((process.pid, process.start))
                previous = Grant(process, pool)
            self.grants[process.pid] = previous
        else:
            self.host.end(process.pid)

    @precondition(lambda self: self.grants)
    @rule(which=WHICH, narrow=st.booleans())
    def fork(self, which: int, narrow: bool) -> None:
        """A child, on all CPUs of its parent or on one."""
        parent = self.host.processes[pick(which, self.grants)]
        mask = frozenset({min(parent.mask)}) if narrow else None
        child = self.host.start(parent.pid, mask)
        self.grants[child.pid] = self.grants[parent.pid]
        self.grants[child.pid].members.add((child.pid, child.start))

    @precondition(lambda self: self.grants)
    @rule(which=WHICH)
    def end(self, which: int) -> None:
        pid = pick(which, self.grants)
        del self.grants[pid]
        self.host.end(pid)

    @precondition(lambda self: self.grants)
    @rule(which=WHICH)
    def end_first_thread(self, which: int) -> None:
        self.host.end_first_thread(pick(which, self.grants))

    @rule(core=st.sampled_from(CORES), everywhere=st.booleans())
    def start_stranger(self, core: frozenset[int], everywhere: bool) -> None:
        """A process of the second shell, which may have been pinned onto a core of somebody's."""
        process = self.host.start(self.shells[1], ALL if everywhere else core)
        if len(self.strangers) < 4:
            self.strangers[process.pid] = process.mask
        else:
            self.host.end(process.pid)

    @rule()
    def wait(self) -> None:
        self.host.wait()

    @rule()
    def tick(self) -> None:
        self.host.ticks += 1

    @rule(layout=LAYOUTS, left=KILLS)
    def reconfigure(self, layout: SavedLayout, left: int) -> None:
        def change(state: ConfDir) -> None:
            now = state.saved()
            assert now is not None
            state.move(state.recover(now), now, layout)

        try:
            self.command(left, change)
        except (Refused, NoRoomError, ChangeError):
            return

    @rule(left=KILLS)
    def reconcile(self, left: int) -> None:
        def collect(state: ConfDir) -> None:
            now = state.saved()
            assert now is not None
            state.save(now, state.recover(now))

        self.command(left, collect)

    @rule(layout=LAYOUTS, left=KILLS)
    def uninstall_and_init(self, layout: SavedLayout, left: int) -> None:
        def remove(state: ConfDir) -> None:
            now = state.saved()
            assert now is not None
            if not state.ledger(now)[0].tasks:
                state.remove()

        def init(state: ConfDir) -> None:
            if state.saved() is None:
                state.create(layout)

        self.command(left, remove)
        while not (self.directory / local.STATE).exists():
            self.command(left, init)
            left = -1

    def lists_of(self, pid: int) -> set[str]:
        return {name for task in self.file()["tasks"] if task["process"]["pid"] == pid for name in task["lists"]}

    def file(self) -> dict:  # type: ignore[type-arg]
        return local.read_sealed(str(self.directory / local.STATE))

    def living(self) -> list[tuple[FakeProcess, Grant]]:
        return [(self.host.processes[pid], grant) for pid, grant in self.grants.items()]

    @invariant()
    def no_core_has_two_hands(self) -> None:
        owners = [(process, grant) for process, grant in self.living() if grant.pool != "infra"]
        for process, grant in owners:
            for other, others in owners:
                assert grant is others or not process.mask & other.mask, (vars(process), vars(other))

    @invariant()
    def no_owner_is_lost_or_unpinned(self) -> None:
        if not getattr(self, "grants", None):
            return
        file = self.file()
        for process, grant in self.living():
            if grant.pool == "infra":
                continue
            of_pool = [task for task in file["tasks"] if task["pool"] == grant.pool]
            tasks = [task for task in of_pool if (task["process"]["pid"], task["process"]["start"]) in grant.members]
            assert tasks, (vars(process), file["tasks"])
            lists = [*tasks[0]["lists"], *file["moving"].get(str(tasks[0]["process"]["pid"]), [])]
            cpus = {int(cpu) for name in lists for cpu in name.split(",")}
            assert process.mask <= cpus, (vars(process), lists)

    @invariant()
    def nobody_is_pinned_who_did_not_ask(self) -> None:
        for pid, mask in getattr(self, "strangers", {}).items():
            assert self.host.processes[pid].mask == mask

    def teardown(self) -> None:
        shutil.rmtree(self.root)


TestDirectory = Directory.TestCase
TestDirectory.settings = settings(
    deadline=None,
    max_examples=120,
    stateful_step_count=50,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)
