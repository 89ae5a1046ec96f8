"""An agent's life on a made-up kernel: whatever processes do, and wherever the agent is killed, each exclusive core has one owner.

Clients take cores, fork, start threads, let their first thread end, isolate themselves to other pools and leave children behind; pids are
used again at once; pools change; and in the middle of each of the agent's steps such things happen as well, kill -9 of the agent included.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import shutil
import tempfile
from collections import defaultdict
from collections.abc import Awaitable, Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from math import inf
from pathlib import Path
from unittest import mock

import hypothesis.strategies as st
import msgspec
from hypothesis import HealthCheck, settings
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from cmk.agent import turns
from cmk.agent.allocator import Allocator, Waiting
from cmk.agent.files import StateFiles
from cmk.agent.options import Options
from cmk.agent.pod_cache import PodCache
from cmk.agent.service import Service
from cmk.agent.wakeups import Wakeups
from cmk.host import affinity, members, mover, state
from cmk.host.affinity import AffinityError
from cmk.host.journal import ChangeError
from cmk.host.peer import Peer
from cmk.model.cgroup_path import PodContainer
from cmk.model.choice import Refused
from cmk.model.config import Section
from cmk.model.cpuset import CpuSet
from cmk.model.layout import CpuList, Layout, Pool, SavedLayout
from cmk.model.ledger import Ledger
from cmk.model.order import NoRoomError
from cmk.model.plan import plan
from cmk.model.pods import Pod, resource_of
from cmk.model.tasks import Process, Task
from cmk.model.topology import Core, Topology
from cmk.model.wire import Isolate
from tests.property.kernel import HOST, Kernel, Killed, Living

CPUS = frozenset(range(6))
TOPOLOGY = Topology(tuple(Core(cpu, 0, frozenset({cpu})) for cpu in sorted(CPUS)))
POOLS = ["exclusive", "exclusive-non-isolcpus", "shared"]
PLACES = [PodContainer("a", "a1"), PodContainer("a", "a2"), PodContainer("b", "b1")]
PODS = [Pod(uid, "ns", uid, {resource_of("exclusive"): 2, resource_of("exclusive-non-isolcpus"): 1}) for uid in ("a", "b")]
STARTS = ["fork", "start a thread", "fork and end", "start a thread and end"]
EVENTS = ["end", "end and use the pid again", "end a thread", "end the first thread", *STARTS]
INDEX = st.integers(0, 1000)
SOON = st.integers(1, 60)
# In the middle of a request.
VERY_SOON = st.integers(1, 20)


def saved(exclusive: Iterable[int], other: Iterable[int], shared: Iterable[int]) -> SavedLayout:
    cores = {"exclusive": exclusive, "exclusive-non-isolcpus": other}
    pools = {name: Pool(name, True, tuple(CpuList(frozenset({cpu}), 0) for cpu in cpus)) for name, cpus in cores.items()}
    lists = {"shared": frozenset(shared), "infra": frozenset({5})}
    pools |= {name: Pool(name, False, (CpuList(cpus, 0),)) for name, cpus in lists.items()}
    return SavedLayout(Layout(pools), Section({}, repr((exclusive, other, shared))), "default", TOPOLOGY)


LAYOUTS = [saved((0, 1, 2), (3,), (4,)), saved((1, 2, 4), (0,), (3,)), saved((0, 1), (2,), (3, 4))]


class Node(RuleBasedStateMachine):
    """``asked`` are the families of processes that have asked for CPUs; no other may ever be pinned.

    ``seconds`` is the time that the agent has for passes over threads and processes: none, as when the machine stands still at the wrong
    moment, or enough, whatever happens on the machine of the test. ``refused`` are processes of which a request was refused;
    ``cut_off`` those of which the agent was killed while it served a request, and that have not been served since: they were told nothing.
    """

    def __init__(self) -> None:
        super().__init__()
        self.root = Path(tempfile.mkdtemp())
        for name in ("opt", "run", "state"):
            (self.root / name).mkdir()
        self.options = Options("n", "ns", "c", "h", *(self.root / name for name in ("opt", "run", "state", "launcher")))
        self.kernel = Kernel(CPUS)
        self.loop = asyncio.new_event_loop()
        self.asked: set[int] = set()
        self.refused: set[Process] = set()
        self.cut_off: set[Process] = set()
        self.seconds = inf
        self.open: list[tuple[Living, Isolate, Peer]] = []
        self.tasks: set[asyncio.Task[None]] = set()

    @initialize(layout=st.sampled_from(LAYOUTS), seconds=st.sampled_from([0, inf]), require_request=st.booleans())
    def begin(self, layout: SavedLayout, seconds: float, require_request: bool) -> None:
        self.seconds = seconds
        self.options = msgspec.structs.replace(self.options, require_request=require_request)
        state.write(self.options.layout_file, layout, durable=False)
        self._start()

    @precondition(lambda self: not self.kernel.is_crowded)
    @rule(place=st.sampled_from([*PLACES, HOST]))
    def start(self, place: PodContainer) -> None:
        self.kernel.start(place)

    @rule(which=INDEX, pool=st.sampled_from(POOLS), cores=st.integers(1, 2), stays=st.booleans())
    def isolate(self, which: int, pool: str, cores: int, stays: bool) -> None:
        if living := self._client(which):
            self._run(lambda: self._ask(living, _request(living, pool, cores), stays=stays))

    @rule(
        which=INDEX, pool=st.sampled_from(POOLS), kind=st.sampled_from(EVENTS), soon=VERY_SOON, times=st.sampled_from([1, 2, 30])
    )
    def isolate_while_something_happens(self, which: int, pool: str, kind: str, soon: int, times: int) -> None:
        for more in range(times):
            self.happen_while_the_agent_works(which, kind, soon + more)
        self.isolate(which, pool, cores=1, stays=False)

    @precondition(lambda self: not self.kernel.is_crowded)
    @rule(place=st.sampled_from([*PLACES, HOST]), pool=st.sampled_from(POOLS), kind=st.sampled_from(STARTS), soon=VERY_SOON)
    def start_and_isolate_while_it_starts_others(self, place: PodContainer, pool: str, kind: str, soon: int) -> None:
        self.kernel.start(place)
        self.isolate_while_something_happens(-1, pool, kind, soon, times=1 if kind == "fork and end" else 30)

    @rule(which=INDEX, pool=st.sampled_from(POOLS), soon=VERY_SOON)
    def isolate_and_kill(self, which: int, pool: str, soon: int) -> None:
        self.kill_while_it_works(soon)
        self.isolate(which, pool, cores=1, stays=False)

    @precondition(lambda self: not self.kernel.is_crowded)
    @rule(place=st.sampled_from([*PLACES, HOST]), pool=st.sampled_from(POOLS), threads=st.integers(0, 2), stays=st.booleans())
    def start_and_isolate(self, place: PodContainer, pool: str, threads: int, stays: bool) -> None:
        living = self.kernel.start(place)
        for _ in range(threads):
            self.kernel.add_thread(living, CPUS)
        self._run(lambda: self._ask(living, _request(living, pool), stays=stays))

    @rule(which=INDEX, kind=st.sampled_from(EVENTS))
    def happen(self, which: int, kind: str) -> None:
        self._event(kind, which)
        self._run(lambda: None)

    @rule(which=INDEX, kind=st.sampled_from(EVENTS), soon=SOON)
    def happen_while_the_agent_works(self, which: int, kind: str, soon: int) -> None:
        self.kernel.events.append((self.kernel.calls + soon, lambda: self._event(kind, which)))

    @rule(which=INDEX, cpu=INDEX)
    def narrow(self, which: int, cpu: int) -> None:
        """A thread of a client that has CPUs of its own binds itself to one of them."""
        if (living := self._client(which)) and living.family in self.asked:
            tids = sorted(living.running)
            tid = tids[which % len(tids)]
            mask = sorted(living.threads[tid])
            if len(mask) < len(CPUS):
                living.threads[tid] = frozenset({mask[cpu % len(mask)]})

    @rule(place=st.sampled_from(PLACES))
    def end_container(self, place: PodContainer) -> None:
        for living in [living for living in self.kernel.processes.values() if living.container == place]:
            self.kernel.end(living)
        self._run(lambda: None)

    @rule(
        wanted=st.sampled_from(LAYOUTS),
        meanwhile=st.lists(st.tuples(st.integers(0, 30), INDEX, st.sampled_from([*POOLS, *EVENTS]), st.booleans()), max_size=4),
    )
    def change(self, wanted: SavedLayout, meanwhile: list[tuple[int, int, str, bool]]) -> None:
        """Pools change, and whenever the agent pauses others may ask, or something happens."""

        async def others() -> None:
            for pauses, which, what, stays in meanwhile:
                for _ in range(pauses):
                    await asyncio.sleep(0)
                if what in EVENTS:
                    self._event(what, which)
                elif living := self._client(which):
                    self._ask(living, _request(living, what), stays=stays)
                self._check_owners_during_a_change()

        async def work() -> None:
            planned = plan(self.saved.layout, wanted.layout, self.ledger.tasks.values())
            if planned.refusals:
                return
            asking = asyncio.get_running_loop().create_task(others())
            self.tasks.add(asking)
            try:
                await self.service.change(self.saved, wanted, planned)
                self.saved = wanted
            except (ChangeError, NoRoomError):
                pass
            await asking
            self.tasks.discard(asking)

        self._run(work)

    @rule(soon=SOON)
    def kill_while_it_works(self, soon: int) -> None:
        self.kernel.die_at = self.kernel.calls + soon

    @rule(soon=SOON)
    def kill(self, soon: int) -> None:
        """Kill the agent, and the next one perhaps while it starts."""
        self._stop()
        self.kernel.die_at = self.kernel.calls + soon
        self._start()

    @invariant()
    def nobody_is_pinned_who_did_not_ask(self) -> None:
        for living in self.kernel.processes.values():
            assert living.family in self.asked or set(living.threads.values()) == {CPUS}, living.process

    @invariant()
    def every_core_is_in_one_hand(self) -> None:
        ledger = self.ledger
        for name, pool in ledger.layout.pools.items():
            assert not pool.exclusive or all(len(tasks) <= 1 for tasks in ledger.users(name).values())
        owners = {cpu: task for task in ledger.tasks.values() for cpu in ledger.cpus_of(task) & ledger.exclusive}
        for cpu, families in self._hands(ledger.exclusive).items():
            assert cpu in owners, f"the owner of CPU {cpu} is lost"
            assert len(families) == 1, f"CPU {cpu} is in the hands of {families}"
            first = self.kernel.families.get(owners[cpu].process)
            assert first is None or families == {first}, f"CPU {cpu} of {owners[cpu]} is in the hands of {families}"

    @invariant()
    def owners_live_and_are_pinned(self) -> None:
        for task in self.ledger.tasks.values():
            cpus = self.ledger.cpus_of(task)
            living = self.kernel.processes.get(task.process.pid)
            if living and task.process in self.cut_off:
                continue  # the lists are its own, but perhaps not all of its threads are pinned
            if living and living.process == task.process:
                assert all(mask <= cpus | self._left_by(task.process) for mask in living.running.values()), (task, living.threads)
            else:
                assert self._has_left_some(task, cpus), f"{task} holds lists after its end"

    @invariant()
    def the_next_agent_would_know_the_same(self) -> None:
        found = state.read(self.options.tasks_file, type(StateFiles(self.options, self.kernel).read_tasks()))
        assert found is not None
        assert sorted(found.tasks, key=lambda task: task.process) == [self.ledger.tasks[key] for key in sorted(self.ledger.tasks)]

    def teardown(self) -> None:
        self._stop()
        self.loop.close()
        self.kernel.close()
        shutil.rmtree(self.root)

    @property
    def ledger(self) -> Ledger:
        return self.service.ledger

    @property
    def allocator(self) -> Allocator:
        return self.service._allocator

    def _start(self) -> None:
        """Start an agent; one that is killed while it starts is followed by another."""

        def work() -> None:
            files = StateFiles(self.options, self.kernel)
            files.change().resume()
            found, layout = files.read_tasks(), files.read_layout()
            assert layout is not None
            self.saved = layout
            pods = PodCache(_list, lambda: None)
            pods.remember(PODS)
            with mock.patch.multiple("cmk.agent.service", Procfs=lambda *_: self.kernel, ServedDirectory=mock.Mock):
                self.service = Service(self.options, files, layout.layout, TOPOLOGY, pods, Wakeups())
            self.allocator.adopt(found.tasks)

        self._work(work)
        if self.kernel.is_killed:
            self._stop()
            self._start()
            return
        # The agent knows all this by itself, before anybody asks again.
        self.nobody_is_pinned_who_did_not_ask()
        self.every_core_is_in_one_hand()
        self.the_next_agent_would_know_the_same()
        asking, self.open = self.open, []
        for living, command, peer in asking:
            os.close(peer.pidfd)
            if self.kernel.processes.get(living.pid) is living:
                self._run(lambda living=living, command=command: self._ask(living, command, stays=False))

    def _stop(self) -> None:
        async def work() -> None:
            for task in self.tasks:
                task.cancel()
            self.allocator.close()
            await asyncio.sleep(0)

        # What the loop had still to do does nothing any more.
        self.kernel.is_killed = True
        self.loop.set_exception_handler(lambda *_: None)
        with self._running():
            self.loop.run_until_complete(work())
        self.tasks.clear()
        self.kernel.is_killed, self.kernel.die_at = False, -1

    def _run(self, work: Callable[[], Awaitable[None] | None]) -> None:
        """Let the agent work until it has nothing to do; when it is killed, the next one starts."""
        self._work(work)
        if self.kernel.is_killed:
            self._stop()
            self._start()

    @contextmanager
    def _running(self) -> Iterator[None]:
        with (
            self.kernel.running(),
            mock.patch.object(affinity, "SECONDS", self.seconds),
            mock.patch.object(affinity, "UNDO_SECONDS", self.seconds),
            mock.patch.object(members, "SECONDS", self.seconds),
            mock.patch.object(mover, "SECONDS", inf),
            mock.patch.object(turns, "SECONDS_AT_ONCE", 0),
        ):
            yield

    def _work(self, work: Callable[[], Awaitable[None] | None]) -> None:
        async def run() -> None:
            if (working := work()) is not None:
                await working
            before = -1
            while before != self.kernel.calls:
                before = self.kernel.calls
                for _ in range(8):
                    await asyncio.sleep(0)

        self.loop.set_exception_handler(lambda _, context: errors.append(context["exception"]))
        errors: list[BaseException] = []
        with self._running():
            try:
                self.loop.run_until_complete(run())
            except Killed:
                return
        for error in errors:
            if not isinstance(error, Killed):
                raise error

    def _ask(self, living: Living, command: Isolate, *, stays: bool) -> None:
        peer = Peer(living.pid, self.kernel.descriptor(living))
        request = living, command, peer
        self.open.append(request)
        try:
            outcome = self.allocator.isolate(command, peer)
        except (Refused, AffinityError, ProcessLookupError):
            self._refuse(*request)
            return
        except Killed:
            self.asked.add(living.family)
            self.cut_off.add(living.process)
            raise
        if not isinstance(outcome, Waiting):
            self._served(*request)
        elif stays:
            task = asyncio.get_running_loop().create_task(self._wait(living, command, peer, outcome))
            self.tasks.add(task)
            task.add_done_callback(self.tasks.discard)
        else:
            self._leave(*request)

    async def _wait(self, living: Living, command: Isolate, peer: Peer, waiting: Waiting) -> None:
        try:
            await self.allocator.isolate_later(command, peer, waiting, partial(asyncio.sleep, 0))
        except (Refused, AffinityError, ProcessLookupError):
            self._refuse(living, command, peer)
        except Killed:
            self.asked.add(living.family)
            self.cut_off.add(living.process)
            raise
        else:
            self._served(living, command, peer)

    def _served(self, *request: *tuple[Living, Isolate, Peer]) -> None:
        self.open.remove(request)
        self.asked.add(request[0].family)
        self.cut_off.discard(request[0].process)

    def _refuse(self, living: Living, command: Isolate, peer: Peer) -> None:
        self.refused.add(living.process)
        # Its children, or threads that could not be set back, hold the lists; on shared lists, others of their container may do so too.
        has_children = any(other.family == living.family and other is not living for other in self.kernel.processes.values())
        holders = [
            task for task in self.ledger.tasks.values() if task.process.pid == living.pid or self._shares(task, living, command)
        ]
        if has_children or holders:
            self.asked.add(living.family)
        self._leave(living, command, peer)

    def _shares(self, task: Task, living: Living, command: Isolate) -> bool:
        """Whether nothing tells a task from a refused process: it is in the same container, on the shared lists that were asked for."""
        is_shared = not self.ledger.layout.pools[task.pool].exclusive
        return is_shared and (task.pool, PodContainer(task.pod, task.container)) == (command.pool, living.container)

    def _leave(self, *request: *tuple[Living, Isolate, Peer]) -> None:
        self.open.remove(request)
        os.close(request[2].pidfd)

    def _client(self, which: int) -> Living | None:
        clients = list(self.kernel.processes.values())
        return clients[which % len(clients)] if clients else None

    def _event(self, kind: str, which: int) -> None:
        living = self._client(which)
        if living is None or (kind.startswith(("fork", "start")) and self.kernel.is_crowded):
            return
        masks = list(living.running.items())
        tid, mask = masks[which % len(masks)]
        if kind == "end a thread":
            self.kernel.end_thread(living, tid)
        elif kind == "end the first thread":
            self.kernel.end_thread(living, living.pid)
        elif kind.startswith("fork"):
            self.kernel.start(living.container, living, mask)
            if kind == "fork and end":
                self.kernel.end(living)
        elif kind.startswith("start a thread"):
            self.kernel.add_thread(living, mask)
            if kind == "start a thread and end":
                self.kernel.end_thread(living, tid)
        else:
            self.kernel.end(living)
            if kind != "end":
                self.kernel.start(HOST, pid=living.pid)

    def _check_owners_during_a_change(self) -> None:
        """Nobody else is where the first process of a task of an exclusive pool is, whether it has moved yet or not."""
        for task in self.ledger.tasks.values():
            living = self.kernel.processes.get(task.process.pid)
            if living and living.process == task.process and self.ledger.layout.pools[task.pool].exclusive:
                hands = self._hands(CPUS)
                for cpu in set().union(*(mask for mask in living.running.values() if mask != CPUS)):
                    assert hands[cpu] == {living.family}, f"CPU {cpu} of {task} is in the hands of {hands[cpu]} during a change"

    def _hands(self, exclusive: CpuSet) -> dict[int, set[int]]:
        """The families that run on each of these CPUs."""
        hands = defaultdict(set)
        for living in self.kernel.processes.values():
            for mask in living.running.values():
                if mask != CPUS:
                    for cpu in mask & exclusive:
                        hands[cpu].add(living.family)
        return hands

    def _left_by(self, process: Process) -> CpuSet:
        """CPUs on which threads of a process may be that was refused: those that are booked for what it has left, and those of no owner."""
        if process not in self.refused:
            return frozenset()
        left = [task for task in self.ledger.tasks.values() if task.process.pid == process.pid]
        return frozenset().union(CPUS - self.ledger.exclusive, *map(self.ledger.cpus_of, left))

    def _has_left_some(self, task: Task, cpus: CpuSet) -> bool:
        place = PodContainer(task.pod, task.container)
        left = [living for living in self.kernel.processes.values() if living.container == place]
        return any(mask <= cpus for mask in itertools.chain(*(living.running.values() for living in left)))


def _request(living: Living, pool: str, cores: int = 1) -> Isolate:
    """A client's request. Outside pods a task of a shared pool is its first process alone, wherever its children run."""
    return Isolate(pool if living.container.pod else pool.replace("shared", "exclusive"), cores)


async def _list() -> list[dict[str, object]]:
    return []


TestNode = Node.TestCase
TestNode.settings = settings(
    deadline=None,
    max_examples=150,
    stateful_step_count=50,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)
