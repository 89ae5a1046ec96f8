"""Pools changed under real processes, by an agent whose API server is made up."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from cmk.agent import turns
from cmk.agent.change_pools import ChangePools
from cmk.agent.history import History
from cmk.agent.node_layout import NodeLayout
from cmk.agent.observed import Observed
from cmk.agent.publisher import Marks, Publisher
from cmk.agent.rollout_limit import RolloutLimit
from cmk.agent.watches import Watches
from cmk.host.procfs import Procfs
from cmk.model.choice import Refused
from cmk.model.config import PoolConfig, Section
from cmk.model.layout import SavedLayout
from cmk.model.pods import Pod, resource_of
from cmk.model.reasons import Obstacle
from cmk.model.tasks import Request
from tests.unit.agent.cluster import NODES, PODS, Cluster, unavailable
from tests.unit.agent.harness import CPUS, EXCLUSIVE, LAYOUT, POD, TOPOLOGY, Node, options_in

RESOURCE = resource_of("exclusive")
LEASES = "/apis/coordination.k8s.io/v1/namespaces/ns/leases"
FIRST = frozenset({CPUS[0]})
ON_LAST = Section({"exclusive": PoolConfig(cpus=str(CPUS[-1]), exclusive=True), "infra": PoolConfig("rest")}, "last")
ON_FIRST = Section({"exclusive": PoolConfig(cpus=str(CPUS[0]), exclusive=True), "infra": PoolConfig("rest")}, "first")
NOBODY = Section({"exclusive": PoolConfig(0, exclusive=True), "infra": PoolConfig("rest")}, "nobody")

pytestmark = pytest.mark.usefixtures("clients_in_pod")


def bound(pod: Pod, cores: int = 1, phase: str = "Running") -> dict[str, Any]:
    """A pod as the API lists it."""
    resources = {"requests": {"cmk.intel.com/exclusive-cores": str(cores)}}
    return {
        "metadata": {"uid": pod.uid, "name": pod.name, "namespace": pod.namespace},
        "spec": {"containers": [{"name": "c", "resources": resources}]},
        "status": {"phase": phase},
    }


class Agent:
    """A serving node with both loops, whose API server is in memory."""

    def __init__(self, root: Path, *, require_request: bool) -> None:
        options = options_in(root, require_request=require_request)
        self.cluster = Cluster(options)
        node = self.cluster.node
        self.cluster.put_at(NODES, {**node, "status": {"capacity": {RESOURCE: "1"}, "allocatable": {RESOURCE: "1"}}})
        self.cluster.bind(bound(POD))
        self.watches = Watches(self.cluster, options, self._on_event)
        self.node = node = Node(root, [POD], require_request=require_request, cache=self.watches.pods)
        node.files.write_layout(SavedLayout(LAYOUT, ON_LAST, "default", TOPOLOGY))
        self.layout = NodeLayout("node1", node.files, TOPOLOGY)
        self.layout.resume(node.files.read_layout(), in_use=True)
        self.history = History(options.history_file)
        self.publisher = Publisher(self.cluster, "node1", self.watches, node.wakeups, self._marks, lambda *_: None)
        limit = RolloutLimit(self.cluster, "ns", "cmk-rollout", "node1")
        self.change_pools = ChangePools(
            self.layout, node.service, self.watches, self.publisher, self.history, limit, node.wakeups
        )

    def _on_event(self) -> None:
        self.node.wakeups.wake_both()

    def _marks(self, observed: Observed) -> Marks:
        layout = self.change_pools.coming or self.node.service.ledger.layout
        return Marks({RESOURCE: len(layout.pools["exclusive"].lists)} if "exclusive" in layout.pools else {})

    async def start(self) -> None:
        """Serve, and know the pods."""
        self.node.start()
        self.watches.start()
        await self.until(lambda: self.watches.observed.pods_known and self.watches.observed.node is not None)
        self.cluster.log.clear()

    def want(self, section: Section) -> None:
        """The configuration changes."""
        self.cluster.configure(section)

    async def until(self, condition: Callable[[], bool]) -> None:
        """Wait for something that a change brings about."""
        async with asyncio.timeout(20):
            while not condition():
                await asyncio.sleep(0.01)

    async def unbind(self) -> None:
        """The pod is deleted, and the watch has told."""
        self.cluster.bind()
        await self.until(lambda: not self.watches.observed.pods)

    @property
    def reason(self) -> Obstacle | None:
        return self.change_pools.pending.reason if self.change_pools.pending else None

    @property
    def text(self) -> str:
        return self.change_pools.pending.text if self.change_pools.pending else ""

    @property
    def hash(self) -> str:
        """Of the configuration that the node has."""
        saved = self.node.files.read_layout()
        assert saved is not None
        assert saved == self.layout.saved
        return saved.section.hash

    @property
    def events(self) -> list[tuple[str, str, str]]:
        """Reason and message of the events, and the pod if one is about a pod."""
        about = [event["involvedObject"] for event in self.cluster.events]
        pods = [f"{item['namespace']}/{item['name']}" if item["kind"] == "Pod" else "" for item in about]
        return [(event["reason"], event["message"], pod) for event, pod in zip(self.cluster.events, pods, strict=True)]


def on_agent(
    root: Path, scenario: Callable[[Agent], Awaitable[None]], *, require_request: bool = True, changes: bool = True
) -> None:
    """Run a scenario against an agent, which changes its pools by itself unless ``changes`` is False."""

    async def run() -> None:
        agent = Agent(root, require_request=require_request)
        await agent.start()
        loop = asyncio.get_running_loop()
        work = [agent.publisher.run(), *([agent.change_pools.run()] if changes else [])]
        loops = [loop.create_task(each) for each in work]
        try:
            await scenario(agent)
            assert not any(task.done() for task in loops)
        finally:
            for task in loops:
                task.cancel()
            agent.node.service.stop()

    asyncio.run(run())


@pytest.fixture(autouse=True)
def own_affinity() -> Any:  # noqa: ANN401
    """The agent of these tests is the tests' own process, which moves with pool infra."""
    yield
    os.sched_setaffinity(0, CPUS)


def test_a_task_moves_with_its_pool_and_everybody_is_told(tmp_path: Path) -> None:
    async def scenario(agent: Agent) -> None:
        async with await agent.node.ask() as client:
            assert (await client.answer())[1] == EXCLUSIVE
            agent.want(ON_FIRST)
            await agent.until(lambda: agent.hash == "first")
            assert os.sched_getaffinity(client.pid) == FIRST
            assert os.sched_getaffinity(0) == set(CPUS) - FIRST
            assert agent.reason is None
            (entry,) = agent.history.entries
            assert (entry.from_hash, entry.to_hash, entry.moves, entry.outcome) == ("last", "first", 2, "applied")
            moved = f"process {client.pid} moved from CPUs {CPUS[-1]} to {CPUS[0]}"
            await agent.until(lambda: len(agent.events) == 2)
            assert agent.events[0][::2] == ("PoolsChanged", "")
            assert agent.events[1] == ("CpusMoved", moved, "ns/web")
            # Whoever comes next meets the new pools, and so does the next agent.
            saved = agent.node.files.read_tasks()
            assert {task.process.pid: task.lists for task in saved.tasks}[client.pid] == (str(CPUS[0]),)
            assert agent.node.tasks("exclusive") == [client.pid]
        await agent.until(lambda: not agent.node.tasks("exclusive"))

    on_agent(tmp_path, scenario)


def test_the_resource_is_lowered_before_pods_are_listed_again(tmp_path: Path) -> None:
    async def scenario(agent: Agent) -> None:
        await agent.unbind()
        agent.want(NOBODY)
        await agent.until(lambda: agent.hash == "nobody")
        assert agent.cluster.log[0] == "advertise exclusive-cores None"
        assert "list pods" in agent.cluster.log
        assert agent.change_pools.coming is None

    on_agent(tmp_path, scenario)


def test_a_pool_with_a_task_stays_until_the_task_ends(tmp_path: Path) -> None:
    async def scenario(agent: Agent) -> None:
        async with await agent.node.ask() as client:
            await client.answer()
            agent.want(NOBODY)
            await agent.until(lambda: agent.reason == Obstacle.CONFIG_REFUSED)
            assert f"pool exclusive is removed, but process {client.pid} of pod ns/web" in agent.text
            assert (agent.hash, os.sched_getaffinity(client.pid)) == ("last", EXCLUSIVE)
            assert agent.cluster.log == []
        await agent.unbind()
        await agent.until(lambda: agent.hash == "nobody")
        assert [entry.outcome.split(":")[0] for entry in agent.history.entries] == ["refused", "applied"]

    on_agent(tmp_path, scenario)


def test_a_pod_that_holds_nothing_yet_counts_too(tmp_path: Path) -> None:
    async def scenario(agent: Agent) -> None:
        agent.want(NOBODY)
        await agent.until(lambda: agent.reason == Obstacle.CONFIG_REFUSED)
        assert "1 are held or requested: ns/web 1" in agent.text

    on_agent(tmp_path, scenario)


def test_a_pod_that_has_ended_does_not(tmp_path: Path) -> None:
    async def scenario(agent: Agent) -> None:
        agent.cluster.bind(bound(POD, phase="Succeeded"))
        agent.want(NOBODY)
        await agent.until(lambda: agent.hash == "nobody")

    on_agent(tmp_path, scenario)


def test_a_pod_that_was_bound_while_we_looked_the_other_way_stops_it(tmp_path: Path) -> None:
    async def scenario(agent: Agent) -> None:
        await agent.unbind()
        agent.cluster.bind_unnoticed(bound(POD))
        agent.want(NOBODY)
        await agent.until(lambda: agent.reason == Obstacle.CONFIG_REFUSED)
        assert agent.cluster.log[0] == "advertise exclusive-cores None"
        assert "list pods" in agent.cluster.log
        assert agent.hash == "last"

    on_agent(tmp_path, scenario)


def test_who_comes_back_while_a_change_is_refused_gets_a_list_that_goes(tmp_path: Path) -> None:
    async def scenario(agent: Agent) -> None:
        agent.want(NOBODY)
        await agent.until(lambda: agent.reason == Obstacle.CONFIG_REFUSED)
        async with await agent.node.ask() as client:
            assert (await client.answer())[1] == EXCLUSIVE

    on_agent(tmp_path, scenario)


def test_who_is_counted_nowhere_does_not(tmp_path: Path) -> None:
    async def scenario(agent: Agent) -> None:
        agent.want(NOBODY)
        await agent.until(lambda: agent.reason == Obstacle.CONFIG_REFUSED)
        with pytest.raises(Refused, match="0 of 1 free"):
            agent.node.service.ledger.allocate(Request("exclusive", Procfs().process(os.getpid())))

    on_agent(tmp_path, scenario, require_request=False)


def test_paused_says_what_would_happen_and_does_nothing(tmp_path: Path) -> None:
    async def scenario(agent: Agent) -> None:
        agent.want(msgspec.structs.replace(ON_FIRST, paused=True))
        await agent.until(lambda: agent.reason == Obstacle.PAUSED)
        assert agent.text.endswith("paused is true: 1 tasks would move, 0 stay")
        assert (agent.hash, agent.cluster.log, agent.history.entries) == ("last", [], [])
        agent.want(ON_FIRST)
        await agent.until(lambda: agent.hash == "first")

    on_agent(tmp_path, scenario)


def test_nodes_wait_for_their_turn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cmk.agent.change_pools.SECONDS_AFTER_ERROR", 0.1)

    async def scenario(agent: Agent) -> None:
        lease = {"metadata": {"name": "cmk-rollout-0"}, "spec": {"holderIdentity": "other"}}
        agent.cluster.put_at(LEASES, lease)
        agent.want(msgspec.structs.replace(ON_FIRST, max_unavailable=1))
        await agent.until(lambda: agent.reason == Obstacle.WAITING)
        agent.cluster.put_at(LEASES, {**lease, "spec": {"holderIdentity": ""}})
        await agent.until(lambda: agent.hash == "first")

    on_agent(tmp_path, scenario)


def test_an_api_server_that_is_away_is_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cmk.agent.change_pools.SECONDS_AFTER_ERROR", 0.05)

    async def scenario(agent: Agent) -> None:
        agent.cluster.refuse = unavailable(3, "get", PODS)
        agent.want(ON_FIRST)
        await agent.until(lambda: agent.hash == "first")
        assert agent.cluster.log.count("list pods") == 1

    on_agent(tmp_path, scenario)


def test_what_the_kernel_refuses_is_undone_and_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cmk.agent.change_pools.SECONDS_BETWEEN_ATTEMPTS", 0.1)
    real, refusing = os.sched_setaffinity, [True]

    def refuse(pid: int, cpus: Any) -> None:  # noqa: ANN401
        if refusing[0] and frozenset(cpus) == FIRST:
            raise OSError(22, "Invalid argument")
        real(pid, cpus)

    async def scenario(agent: Agent) -> None:
        async with await agent.node.ask() as client:
            await client.answer()
            monkeypatch.setattr(os, "sched_setaffinity", refuse)
            agent.want(ON_FIRST)
            await agent.until(lambda: agent.reason == Obstacle.CONFIG_REFUSED)
            assert f"process {client.pid}, thread {client.pid}: CPUs {CPUS[0]} refused by the kernel" in agent.text
            assert (agent.hash, os.sched_getaffinity(client.pid)) == ("last", EXCLUSIVE)
            assert not agent.node.options.journal_file.exists()
            assert agent.history.entries[-1].outcome.startswith("undone: process ")
            refusing[0] = False
            await agent.until(lambda: agent.hash == "first")
            assert os.sched_getaffinity(client.pid) == FIRST

    on_agent(tmp_path, scenario)


def test_a_pinned_task_stands_in_the_way(tmp_path: Path) -> None:
    async def scenario(agent: Agent) -> None:
        async with await agent.node.ask(**{"on-move": "pinned"}) as client:
            await client.answer()
            agent.want(ON_FIRST)
            await agent.until(lambda: agent.reason == Obstacle.CONFIG_REFUSED)
            assert "does not move (cmk.intel.com/on-move: pinned)" in agent.text
            assert os.sched_getaffinity(client.pid) == EXCLUSIVE

    on_agent(tmp_path, scenario)


def test_a_pods_annotation_says_so_for_all_of_its_tasks(tmp_path: Path) -> None:
    async def scenario(agent: Agent) -> None:
        agent.node.pods.remember([msgspec.structs.replace(POD, on_move="pinned")])
        async with await agent.node.ask(**{"on-move": "follow"}) as client:
            await client.answer()
            (task,) = (task for task in agent.node.service.ledger.tasks.values() if task.process.pid == client.pid)
            assert task.on_move.how == "follow", "the command line wins"
        async with await agent.node.ask() as client:
            await client.answer()
            (task,) = (task for task in agent.node.service.ledger.tasks.values() if task.process.pid == client.pid)
            assert task.on_move.how == "pinned"

    on_agent(tmp_path, scenario)


def test_a_wish_that_nobody_understands_is_refused(tmp_path: Path) -> None:
    async def scenario(agent: Agent) -> None:
        async with await agent.node.ask(**{"on-move": "stay"}) as client:
            assert (await client.answer())[0].startswith("cmk/1 error 78\non-move 'stay' is none of")
        agent.node.pods.remember([msgspec.structs.replace(POD, on_move="stay")])
        async with await agent.node.ask() as client:
            reply, _ = await client.answer()
            assert reply.startswith("cmk/1 error 78\nannotation cmk.intel.com/on-move of pod ns/web: on-move 'stay'")

    on_agent(tmp_path, scenario)


def test_who_wants_to_be_told_is(tmp_path: Path) -> None:
    async def scenario(agent: Agent) -> None:
        async with await agent.node.ask(**{"on-move": "notify:SIGWINCH"}) as client:
            reply, _ = await client.answer()
            (name,) = (line.removeprefix("CMK_STATE=") for line in reply.split("\n") if line.startswith("CMK_STATE="))
            files = [directory / name for directory in agent.node.options.service_dirs]
            assert [json.loads(file.read_text()) for file in files] == [
                {"generation": 1, "cpus": str(CPUS[-1]), "lists": [str(CPUS[-1])]}
            ] * len(files)
            sent: list[int] = []
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(signal, "pidfd_send_signal", lambda _, number: sent.append(number))
                agent.want(ON_FIRST)
                await agent.until(lambda: agent.hash == "first")
            assert sent == [signal.SIGWINCH]
            assert json.loads(files[0].read_text()) == {"generation": 2, "cpus": str(CPUS[0]), "lists": [str(CPUS[0])]}
        await agent.until(lambda: not files[0].exists())

    on_agent(tmp_path, scenario)


def test_a_launcher_that_knows_nothing_of_moves_is_told_no_file(tmp_path: Path) -> None:
    async def scenario(agent: Agent) -> None:
        agent.node.pods.remember([msgspec.structs.replace(POD, on_move="notify")])
        async with await agent.node.ask() as client:
            assert "CMK_STATE" not in (await client.answer())[0]

    on_agent(tmp_path, scenario)


def test_another_configuration_that_comes_to_the_same_pools_is_taken(tmp_path: Path) -> None:
    async def scenario(agent: Agent) -> None:
        agent.want(ON_FIRST)
        await agent.until(lambda: agent.hash == "first")
        agent.cluster.log.clear()
        agent.want(Section({**ON_FIRST.pools, "shared": PoolConfig(0)}, "zero"))
        await agent.until(lambda: agent.hash == "zero")
        assert (agent.cluster.log, len(agent.history.entries)) == ([], 1)

    on_agent(tmp_path, scenario)


@pytest.mark.parametrize(
    ("pools", "reason"),
    [({"exclusive": PoolConfig(99, exclusive=True), "infra": PoolConfig("rest")}, Obstacle.LAYOUT_IMPOSSIBLE)],
)
def test_pools_that_the_machine_has_not_leave_it_as_it_is(tmp_path: Path, pools: dict[str, PoolConfig], reason: Obstacle) -> None:
    async def scenario(agent: Agent) -> None:
        agent.want(Section(pools, "other"))
        await agent.until(lambda: agent.reason == reason)
        assert agent.hash == "last"

    on_agent(tmp_path, scenario)


def test_going_back_to_what_there_is_ends_a_refusal(tmp_path: Path) -> None:
    async def scenario(agent: Agent) -> None:
        agent.want(NOBODY)
        await agent.until(lambda: agent.reason == Obstacle.CONFIG_REFUSED)
        agent.want(ON_LAST)
        await agent.until(lambda: agent.reason is None)
        assert agent.change_pools.coming is None
        agent.node.service.ledger.allocate(Request("exclusive", Procfs().process(os.getpid()), pod=POD))

    on_agent(tmp_path, scenario)


def test_everybody_else_is_kept_out_before_and_after(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario(agent: Agent) -> None:
        service, seen = agent.node.service, []
        monkeypatch.setattr(
            type(service.layers), "refit", lambda _: seen.append((service.ledger.exclusive, os.sched_getaffinity(client.pid)))
        )
        async with await agent.node.ask() as client:
            await client.answer()
            agent.want(ON_FIRST)
            await agent.until(lambda: agent.hash == "first")
        closed = FIRST | EXCLUSIVE if len(CPUS) > 2 else FIRST  # somebody has to be somewhere
        assert seen == [(closed, EXCLUSIVE), (FIRST, FIRST)]

    on_agent(tmp_path, scenario)


def test_who_goes_elsewhere_by_himself_meanwhile_is_left_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario(agent: Agent) -> None:
        service = agent.node.service
        async with await agent.node.ask() as client:
            await client.answer()
            refits: list[bool] = []

            def refit(_: object) -> None:
                refits.append(True)
                if len(refits) == 2:  # the change has been made
                    os.sched_setaffinity(client.pid, EXCLUSIVE)

            monkeypatch.setattr(type(service.layers), "refit", refit)
            agent.want(ON_FIRST)
            await agent.until(lambda: agent.hash == "first")
            assert os.sched_getaffinity(client.pid) == EXCLUSIVE

    on_agent(tmp_path, scenario)


def test_kernels_that_widen_masks_with_their_cpuset_are_corrected(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario(agent: Agent) -> None:
        service = agent.node.service
        async with await agent.node.ask() as client:
            await client.answer()
            monkeypatch.setattr(type(service.layers), "refit", lambda _: os.sched_setaffinity(client.pid, CPUS))
            agent.want(ON_FIRST)
            await agent.until(lambda: agent.hash == "first")
            assert os.sched_getaffinity(client.pid) == FIRST

    on_agent(tmp_path, scenario)


def test_a_change_that_has_begun_is_finished_before_the_agent_stops(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario(agent: Agent) -> None:
        monkeypatch.setattr(turns, "SECONDS_AT_ONCE", 0)
        begun = asyncio.Event()
        begin = agent.node.service.ledger.begin
        monkeypatch.setattr(agent.node.service.ledger, "begin", lambda *args: (begun.set(), begin(*args)))
        async with await agent.node.ask() as client:
            await client.answer()
            changing = asyncio.get_running_loop().create_task(agent.change_pools.run())
            agent.want(ON_FIRST)
            await begun.wait()
            changing.cancel()
            assert agent.hash == "last"
            await agent.change_pools.settled()
            assert agent.hash == "first"
            assert os.sched_getaffinity(client.pid) == FIRST
            assert not agent.node.options.journal_file.exists()

    on_agent(tmp_path, scenario, changes=False)
