"""The serving half of an agent, over real sockets and by real processes."""

import asyncio
import json
import os
from pathlib import Path

import pytest

from cmk.model import report
from cmk.model.wire import Show
from tests.unit.agent.harness import SHARED, Client, Node, on_node, text_of

pytestmark = pytest.mark.usefixtures("clients_in_pod", "own_affinity")


def test_the_agent_lives_in_infra(tmp_path: Path) -> None:
    async def scenario(node: Node) -> None:
        assert node.tasks("infra") == [os.getpid()]
        assert os.sched_getaffinity(0) == SHARED

    on_node(tmp_path, scenario)


def test_the_length_of_a_description_comes_before_it(tmp_path: Path) -> None:
    async def scenario(node: Node) -> None:
        async with await Client.start(node.socket, "cmk/1 describe") as client:
            assert (await client.answer())[0] == f"cmk/1 ok\nlength={len(node.service.show(Show('describe')).encode())}"

    on_node(tmp_path, scenario)


@pytest.mark.parametrize("what", ["describe", "node-report"])
def test_called_kcm_a_launcher_gets_its_names_of_pools(tmp_path: Path, what: str) -> None:
    async def scenario(node: Node) -> None:
        shown = json.loads(node.service.show(Show(what, old_names=True)))
        pools = shown["pools"] if what == "describe" else shown["description"]["pools"]
        assert {name: pool["name"] for name, pool in pools.items()} == {
            name: name for name in ("dataplane", "controlplane", "infra")
        }

    on_node(tmp_path, scenario)


def test_describe_names_the_pids(tmp_path: Path) -> None:
    async def scenario(node: Node) -> None:
        async with await node.ask() as client:
            await client.answer()
            shown = json.loads(node.service.show(Show("describe")))
            (listed,) = shown["pools"]["exclusive"]["cpuLists"].values()
            assert listed["tasks"] == [client.pid]

    on_node(tmp_path, scenario)


def test_a_description_is_made_once_for_each_change(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[int] = []
    describe = report.describe
    monkeypatch.setattr(report, "describe", lambda ledger, path: made.append(ledger.version) or describe(ledger, path))

    async def scenario(node: Node) -> None:
        first = node.service.show(Show("describe"))
        assert node.service.show(Show("describe")) is first
        assert len(made) == 1
        async with await node.ask() as client:
            await client.answer()
            assert str(client.pid) in node.service.show(Show("describe"))
            assert len(made) == 2

    on_node(tmp_path, scenario)


@pytest.mark.parametrize("name", ["cmk", "agent.sock"])
def test_damage_in_a_host_directory_is_repaired(tmp_path: Path, name: str) -> None:
    async def scenario(node: Node) -> None:
        target = tmp_path / "old" / name
        target.unlink()
        async with asyncio.timeout(20):
            while not target.exists():
                await asyncio.sleep(0.02)
        async with await Client.start(tmp_path / "old/agent.sock", text_of("shared")) as client:
            assert (await client.answer())[0].startswith("cmk/1 ok")

    on_node(tmp_path, scenario)
