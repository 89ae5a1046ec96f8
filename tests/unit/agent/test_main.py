"""A whole agent on this machine's CPUs, with an API server in memory."""

from __future__ import annotations

import asyncio
import fcntl
import subprocess
from pathlib import Path

import msgspec
import pytest

from cmk.agent.files import StateFiles
from cmk.agent.publisher import Publisher
from cmk.host.procfs import Procfs
from cmk.isolation.layers import Layers
from cmk.kube import reports
from cmk.kube.node import LABEL
from tests.unit.agent.cluster import NODES, PODS, Cluster, unavailable
from tests.unit.agent.harness import CPUS, EXCLUSIVE, Client, text_of
from tests.unit.agent.world import BOUND, BY_LABEL, OLD_WEBHOOK, ONE, TOO_MANY, World, another_agent


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
