"""A whole agent on this machine's CPUs, with an API server in memory."""

from __future__ import annotations

import asyncio
import fcntl
import os
import signal
import subprocess
import sys
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest

from cmk.agent.files import StateFiles
from cmk.agent.main import Agent
from cmk.agent.publisher import Publisher
from cmk.host import state
from cmk.host.procfs import Procfs
from cmk.isolation.layers import Layers
from cmk.kube import reports
from cmk.kube.node import LABEL
from cmk.model.config import PoolConfig, Section, Selection
from cmk.model.pods import resource_of
from tests.fabricate import fabricate
from tests.unit.agent.cluster import NODES, PODS, Cluster, unavailable
from tests.unit.agent.harness import CLIENT, CPUS, EXCLUSIVE, POD, Client, options_in, text_of

RESOURCE = resource_of("exclusive")
ONE = Section({"exclusive": PoolConfig(cpus=str(CPUS[-1]), exclusive=True), "infra": PoolConfig("rest")}, "one")
TOO_MANY = Section({"exclusive": PoolConfig(99, exclusive=True), "infra": PoolConfig("rest")}, "many")
BY_LABEL = Selection({"cmk-node": "enabled"})
OLD_WEBHOOK = "/apis/admissionregistration.k8s.io/v1/mutatingwebhookconfigurations/cmk-webhook-config"
BOUND = {
    "metadata": {"uid": POD.uid, "name": POD.name, "namespace": POD.namespace},
    "spec": {"containers": [{"name": "c", "resources": {"requests": {RESOURCE: "1"}}}]},
}


class World:
    """A node and its cluster, on which agents run one after the other."""

    def __init__(self, root: Path) -> None:
        sys_root, _ = fabricate(root / "machine", {str(cpu): 0 for cpu in CPUS})
        self.options = msgspec.structs.replace(options_in(root), health_port=0, sys_root=sys_root)
        self.cluster = Cluster(self.options, **{"cmk-node": "enabled"})
        self.root = root

    async def until(self, condition: Callable[[], bool]) -> None:
        """Wait for something that the agent is about to do."""
        async with asyncio.timeout(20):
            while not condition():
                await asyncio.sleep(0.01)

    async def serving(self) -> None:
        """Until workloads are served and the cluster knows."""
        await self.until(lambda: self.cluster.condition("Ready") == ("True", "Serving") and self.capacity == "1")

    async def refused(self, reason: str) -> None:
        """Until the report says why nobody is served."""
        await self.until(lambda: self.cluster.condition("Ready") == ("False", reason))

    async def ready(self, text: str) -> None:
        """Until the probe says that the agent is ready, in these words."""
        await self.until(lambda: self.agent._readiness() == (True, text))

    async def not_ready(self, text: str) -> None:
        """Until the probe says that the agent is not ready, in words that begin so."""
        await self.until(lambda: not (now := self.agent._readiness()).is_ready and now.text.startswith(text))

    @property
    def capacity(self) -> str:
        return str((self.cluster.node["status"].get("capacity") or {}).get(RESOURCE, ""))

    @property
    def socket(self) -> Path:
        return self.options.install_dir / "agent.sock"

    def run(self, scenario: Callable[[World], Awaitable[None]]) -> None:
        """Run an agent until the scenario has ended, then tell it to stop. Raises what the agent raises."""

        async def run() -> None:
            self.agent = Agent(self.options, self.cluster)
            agent = asyncio.create_task(self.agent.run())
            story = asyncio.ensure_future(scenario(self))
            await asyncio.wait({agent, story}, return_when=asyncio.FIRST_COMPLETED)
            if agent.done():
                story.cancel()
            else:
                os.kill(os.getpid(), signal.SIGTERM)
            async with asyncio.timeout(20):
                await agent
            await story

        asyncio.run(run())


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, clients_in_pod: None, own_affinity: None) -> World:
    monkeypatch.setattr("cmk.agent.publisher.SECONDS_BETWEEN_REPORTS", 0)
    monkeypatch.setattr("cmk.kube.watch.FIRST_PAUSE", 0.01)
    monkeypatch.setattr("cmk.kube.watch.LAST_PAUSE", 0.05)
    monkeypatch.setattr("cmk.legacy.predecessor.SECONDS_BETWEEN_LOOKS", 0.01)
    return World(tmp_path)


def message(world: World) -> str:
    return next(item["message"] for item in world.cluster.report["status"]["conditions"] if item["type"] == "Ready")


class LongLived:
    """A client that outlives agents."""

    def __init__(self, world: World) -> None:
        self._socket = world.socket

    def __enter__(self) -> LongLived:
        return self

    def __exit__(self, *_: object) -> None:
        self.end()

    def ask(self, pool: str) -> None:
        """Ask for a core; returns with the answer."""
        line = [sys.executable, "-c", CLIENT, self._socket, text_of(pool)]
        self._process = subprocess.Popen(line, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        assert self._process.stdout is not None
        assert b"cmk/1 ok" in self._process.stdout.readline()

    @property
    def pid(self) -> int:
        return self._process.pid

    def end(self) -> None:
        self._process.kill()
        self._process.communicate()


@contextmanager
def another_agent(world: World) -> Iterator[None]:
    """An agent that holds the lock."""
    with world.options.lock_file.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def test_an_agent_serves_what_the_configuration_asks_for(world: World) -> None:
    async def scenario(world: World) -> None:
        world.cluster.configure(ONE)
        world.cluster.bind(BOUND)
        await world.serving()
        assert world.cluster.node["metadata"]["labels"][LABEL] == "true"
        assert [taint["key"] for taint in world.cluster.node["spec"]["taints"]] == ["cmk"]
        async with await Client.start(world.socket, text_of("exclusive")) as client:
            assert (await client.answer())[1] == EXCLUSIVE
            await world.until(lambda: world.cluster.report["status"]["pools"]["exclusive"]["free"] == 0)

    world.run(scenario)


def test_an_agent_without_configuration_touches_nothing(world: World) -> None:
    async def scenario(world: World) -> None:
        await world.until(lambda: "list pods" in world.cluster.log)

    world.run(scenario)
    assert (world.cluster.writes, world.socket.exists()) == ([], False)


def test_the_next_agent_serves_on_without_an_api_server_that_knows_the_configuration(world: World) -> None:
    async def first(world: World) -> None:
        world.cluster.configure(ONE)
        await world.serving()

    async def second(world: World) -> None:
        await world.until(world.socket.exists)
        async with await Client.start(world.socket, text_of("infra")) as client:
            assert (await client.answer())[0].startswith("cmk/1 ok")

    world.run(first)
    world.cluster = Cluster(world.options)
    world.run(second)


def test_told_to_stop_an_agent_leaves_pools_and_marks_as_they_are(world: World) -> None:
    async def scenario(world: World) -> None:
        world.cluster.configure(ONE)
        await world.serving()

    world.run(scenario)
    assert world.options.layout_file.exists()
    assert (world.capacity, world.cluster.condition("Ready")) == ("1", ("True", "Serving"))
    with world.options.lock_file.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)


def test_an_agent_waits_for_the_lock_of_another(world: World) -> None:
    async def scenario(world: World) -> None:
        world.cluster.configure(ONE)
        with another_agent(world):
            await world.until(lambda: "list pods" in world.cluster.log)
            assert (world.cluster.report, world.socket.exists()) == ({}, False)
        await world.serving()

    world.run(scenario)


def test_an_agent_that_waits_for_the_lock_stops_when_told(world: World) -> None:
    async def scenario(world: World) -> None:
        await world.until(lambda: "list pods" in world.cluster.log)

    with another_agent(world):
        world.run(scenario)
    assert world.cluster.writes == []


def test_an_agent_is_ready_while_it_serves(world: World) -> None:
    async def scenario(world: World) -> None:
        await world.not_ready("has no configuration yet")
        world.cluster.configure(TOO_MANY)
        await world.not_ready("LayoutImpossible: needs 100 cores")
        world.cluster.configure(ONE)
        await world.ready("ok")
        world.cluster.configure(TOO_MANY)  # is refused, and the pools stay
        await world.until(lambda: world.cluster.condition("ConfigApplied")[0] == "False")
        await world.ready("ok")

    world.run(scenario)


def test_what_lies_in_the_place_of_every_socket_ends_no_agent(world: World) -> None:
    for directory in world.options.service_dirs:
        (directory / "agent.sock/full").mkdir(parents=True)

    async def scenario(world: World) -> None:
        world.cluster.configure(ONE)
        await world.serving()
        text = f"cannot make {world.options.install_dir}/agent.sock"
        await world.not_ready(f"no workload can reach the agent: {text}")
        await world.until(lambda: any(text in warning for warning in world.cluster.report["status"]["warnings"]))

    world.run(scenario)


def test_an_agent_that_waits_for_the_lock_of_another_is_ready(world: World) -> None:
    async def scenario(world: World) -> None:
        with another_agent(world):
            await world.ready("standing by: another agent serves this node")
        await world.not_ready("has no configuration yet")

    world.run(scenario)


def test_an_agent_that_waits_is_not_ready_to_take_over_without_an_api_server(world: World) -> None:
    world.cluster.refuse = unavailable(10**6, "get")

    async def scenario(world: World) -> None:
        with another_agent(world):
            await world.not_ready("what the API server has may not be known: node: ")

    world.run(scenario)


def test_an_agent_without_an_api_server_serves_on_and_is_not_ready(world: World) -> None:
    async def scenario(world: World) -> None:
        world.cluster.configure(ONE)
        world.cluster.bind(BOUND)
        await world.ready("ok")
        world.cluster.refuse = unavailable(10**6, "get")
        world.cluster.break_watches()
        await world.not_ready("what the API server has may not be known: node: ")
        async with await Client.start(world.socket, text_of("exclusive")) as client:
            assert (await client.answer())[1] == EXCLUSIVE
        world.cluster.refuse = lambda method, path: None
        await world.ready("ok")

    world.run(scenario)


@pytest.mark.parametrize("collection", [NODES, PODS, "/api/v1/namespaces/ns/configmaps", reports.PATH])
def test_a_watch_that_tells_nonsense_makes_the_agent_unready_until_it_has_listed_again(world: World, collection: str) -> None:
    async def scenario(world: World) -> None:
        world.cluster.configure(ONE)
        await world.ready("ok")
        world.cluster.refuse = unavailable(10**6, "get", collection)
        world.cluster.tell(collection, {"type": "MODIFIED", "object": None})
        await world.not_ready("what the API server has may not be known: ")
        world.cluster.refuse = lambda method, path: None
        await world.ready("ok")

    world.run(scenario)


async def _forever(_: World) -> None:
    await asyncio.Event().wait()


def test_a_loop_that_fails_ends_the_agent(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    async def fail(_: Publisher) -> None:
        raise ValueError("a mistake")

    monkeypatch.setattr(Publisher, "run", fail)
    with pytest.raises(ValueError, match="a mistake"):
        world.run(_forever)


def test_an_event_that_fails_ends_the_agent(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise ValueError("a mistake")

    monkeypatch.setattr(Layers, "apply", fail)
    world.cluster.configure(ONE)
    with pytest.raises(ValueError, match="a mistake"):
        world.run(_forever)


def damage(world: World, *names: str) -> None:
    for name in names:
        directory = world.options.run_dir if name.startswith("tasks") else world.options.state_dir
        (directory / name).write_text("{")


@pytest.mark.parametrize(
    "names",
    [
        ["tasks.json"],
        ["tasks.json", "tasks.json.old"],
        ["layout.json", "layout.json.old"],
        ["tasks.json", "tasks.json.old", "layout.json", "layout.json.old"],
    ],
    ids=" ".join,
)
def test_damaged_files_take_no_core_from_its_owner(world: World, names: list[str]) -> None:
    async def first(world: World) -> None:
        world.cluster.configure(ONE)
        world.cluster.bind(BOUND)
        await world.serving()
        await asyncio.to_thread(owner.ask, "exclusive")

    async def second(world: World) -> None:
        await world.until(lambda: bool(world.cluster.events))
        assert (world.cluster.events[0]["reason"], names[0] in world.cluster.events[0]["message"]) == ("StateRecovered", True)
        await world.until(lambda: world.cluster.report["status"]["pools"]["exclusive"]["free"] == 0)
        async with await Client.start(world.socket, text_of("exclusive", timeout=1)) as client:
            assert (await client.answer())[0].startswith("cmk/1 error")
        owner.end()
        await world.until(lambda: world.cluster.report["status"]["pools"]["exclusive"]["free"] == 1)

    with LongLived(world) as owner:
        world.run(first)
        damage(world, *names)
        world.run(second)


def test_a_damaged_journal_serves_nobody_while_a_task_may_be_between_two_layouts(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cmk.agent.main.SECONDS_BETWEEN_ATTEMPTS", 0.05)

    async def first(world: World) -> None:
        world.cluster.configure(ONE)
        await world.serving()
        await asyncio.to_thread(client.ask, "infra")

    async def second(world: World) -> None:
        await world.refused("StateUnusable")
        assert "journal.json.old: Input data was truncated; move it away to start afresh; it was of a change" in message(world)
        assert f"either layout: {client.pid}; end them" in message(world)
        client.end()
        await world.serving()
        await world.until(lambda: len(world.cluster.events) == 2)

    with LongLived(world) as client:
        world.run(first)
        files = StateFiles(world.options, Procfs())
        files.write_tasks(
            [task for task in files.read_tasks().tasks if task.process.pid != os.getpid()], []
        )  # that agent has ended
        damage(world, "journal.json", "journal.json.old")
        world.run(second)
    assert [event["reason"] for event in world.cluster.events] == ["StateUnusable", "StateRecovered"]


@pytest.fixture
def full(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Directories on disks that are full."""
    directories: list[Path] = []
    replace = state.replace

    def write(path: Path, data: bytes, **more: Any) -> None:  # noqa: ANN401
        if path.parent in directories:
            raise state.StateError(f"cannot write {path}: No space left on device")
        replace(path, data, **more)

    monkeypatch.setattr(state, "replace", write)
    return directories


def test_an_agent_starts_and_allocates_on_a_full_disk(world: World, full: list[Path]) -> None:
    async def first(world: World) -> None:
        world.cluster.configure(ONE)
        world.cluster.bind(BOUND)
        await world.serving()

    async def second(world: World) -> None:
        await world.serving()
        world.cluster.configure(msgspec.structs.replace(ONE, hash="two"))
        async with await Client.start(world.socket, text_of("exclusive")) as client:
            assert (await client.answer())[1] == EXCLUSIVE
            await world.until(lambda: world.cluster.report["status"]["pools"]["exclusive"]["free"] == 0)

    world.run(first)
    full.append(world.options.state_dir)
    world.run(second)


def test_a_first_layout_that_cannot_be_written_is_waited_for(
    world: World, full: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cmk.agent.main.SECONDS_BETWEEN_ATTEMPTS", 0.05)
    full.append(world.options.state_dir)

    async def scenario(world: World) -> None:
        world.cluster.configure(ONE)
        await world.refused("StateUnusable")
        assert message(world) == f"cannot write {world.options.layout_file}: No space left on device"
        full.clear()
        await world.serving()

    world.run(scenario)


def test_while_tasks_cannot_be_written_each_request_is_refused_with_the_path(world: World, full: list[Path]) -> None:
    async def scenario(world: World) -> None:
        world.cluster.configure(ONE)
        world.cluster.bind(BOUND)
        await world.serving()
        full.append(world.options.run_dir)
        async with await Client.start(world.socket, text_of("exclusive")) as client:
            reply, _ = await client.answer()
            assert f"cannot write {world.options.tasks_file}: No space left on device" in reply
            full.clear()
            assert (await client.again(text_of("exclusive")))[1] == EXCLUSIVE

    world.run(scenario)


def test_a_configuration_that_is_impossible_is_refused_once_and_the_next_one_served(world: World) -> None:
    async def scenario(world: World) -> None:
        world.cluster.configure(TOO_MANY)
        await world.refused("LayoutImpossible")
        world.cluster.bind(BOUND)  # another event
        assert world.capacity == ""
        world.cluster.configure(ONE)
        await world.serving()
        await world.until(lambda: bool(world.cluster.events))
        assert [event["reason"] for event in world.cluster.events] == ["LayoutImpossible"]

    world.run(scenario)


def test_warnings_of_a_layout_are_events_once(world: World) -> None:
    async def scenario(world: World) -> None:
        world.cluster.configure(msgspec.structs.replace(ONE, reserved="4095"))
        await world.serving()
        world.cluster.bind(BOUND)  # another event
        await world.until(lambda: bool(world.cluster.events))
        assert [(event["reason"], event["message"]) for event in world.cluster.events] == [
            ("LayoutWarning", "reserved CPUs 4095 are not online")
        ]

    world.run(scenario)


def test_an_older_cmk_is_waited_for(world: World) -> None:
    async def scenario(world: World) -> None:
        world.cluster.configure(ONE)
        world.cluster.put(OLD_WEBHOOK, {"metadata": {"name": "cmk-webhook-config"}})
        await world.refused("OldCmkRuns")
        assert not world.socket.exists()
        world.cluster.delete(OLD_WEBHOOK)
        await world.serving()

    world.run(scenario)


def test_the_pools_of_an_older_cmk_are_taken_over(world: World) -> None:
    directory = world.options.host_dirs[0]
    infra = directory / "pools/infra" / ",".join(str(cpu) for cpu in CPUS)
    infra.mkdir(parents=True)
    (infra.parent / "exclusive").write_text("0")
    with subprocess.Popen(["sleep", "60"]) as running:
        try:
            _take_over(world, infra, running.pid)
        finally:
            running.kill()
    assert (infra.exists(), (directory / "pools.old").is_dir()) == (False, True)


def _take_over(world: World, infra: Path, running: int) -> None:
    (infra / "tasks").write_text(str(running))
    directory = world.options.host_dirs[0]

    async def scenario(world: World) -> None:
        world.cluster.configure(msgspec.structs.replace(ONE, paused=True))
        await world.until(lambda: world.cluster.condition("Ready") == ("True", "Serving"))
        assert world.cluster.report["status"]["scope"] == f"adopted from the directory {directory}"
        saved = StateFiles(world.options, Procfs()).read_layout()
        assert saved
        assert saved.layout.cpus_of("infra") == set(CPUS)
        assert running in [task.process.pid for task in StateFiles(world.options, Procfs()).read_tasks().tasks]

    world.run(scenario)


@pytest.mark.parametrize(("needed", "kept"), [((), False), ((BOUND,), True)], ids=["free", "needed by a pod"])
def test_a_node_that_is_not_selected_any_more_is_left_as_it_was(world: World, needed: tuple[object, ...], kept: bool) -> None:
    async def scenario(world: World) -> None:
        world.cluster.configure(ONE, BY_LABEL)
        if needed:
            world.cluster.bind(BOUND)
        await world.serving()
        node = world.cluster.node
        world.cluster.put_at(NODES, {**node, "metadata": {**node["metadata"], "labels": {LABEL: "true"}}})
        world.cluster.configure(TOO_MANY, BY_LABEL)  # comes after the label
        await world.until(lambda: world.cluster.condition("ConfigApplied")[1] == "LayoutImpossible")

    world.run(scenario)
    assert (f"{reports.PATH}/{world.options.node}" in world.cluster.store) == kept
    assert bool(world.capacity) == kept
    assert (LABEL in world.cluster.node["metadata"]["labels"]) == kept
    assert world.options.layout_file.exists() == kept
    assert (world.options.install_dir / "cmk").exists() == kept


@pytest.mark.parametrize(
    ("daemonset", "undone"),
    [({"metadata": {"name": "cmk"}}, False), ({"metadata": {"name": "cmk", "deletionTimestamp": "now"}}, True), (None, True)],
    ids=["stays", "is deleted", "is gone"],
)
def test_isolation_is_undone_when_the_chart_is_uninstalled(
    world: World, monkeypatch: pytest.MonkeyPatch, daemonset: dict[str, object] | None, undone: bool
) -> None:
    undo = Layers.undo
    done: list[bool] = []
    monkeypatch.setattr(Layers, "undo", lambda self: (done.append(True), undo(self)))
    world.options = msgspec.structs.replace(world.options, daemonset="cmk")
    if daemonset:
        world.cluster.put("/apis/apps/v1/namespaces/ns/daemonsets/cmk", daemonset)

    async def scenario(world: World) -> None:
        world.cluster.configure(ONE)
        await world.serving()

    world.run(scenario)
    assert bool(done) == undone
    assert world.options.layout_file.exists()
