"""Pools on a machine that is another one than their layout was made for."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import msgspec
import pytest

from cmk.host.state import StateError
from cmk.model.config import PoolConfig, Section
from cmk.model.layout import SavedLayout
from cmk.model.reasons import Obstacle
from cmk.model.topology import Topology
from tests.unit.agent.harness import CPUS, EXCLUSIVE, LAYOUT, TOPOLOGY
from tests.unit.agent.test_change_pools import FIRST, Agent, on_agent

pytestmark = pytest.mark.usefixtures("clients_in_pod", "own_affinity")
COUNTED = Section({"exclusive": PoolConfig(1, exclusive=True), "shared": PoolConfig(0), "infra": PoolConfig("rest")}, "counted")


def on_another_machine(agent: Agent) -> None:
    """The pools that the node has are those of its configuration, but were made for a machine that had the last CPU alone."""
    agent.layout.keep(SavedLayout(LAYOUT, COUNTED, "default", Topology(TOPOLOGY.cores[-1:])))
    agent.want(COUNTED)


def test_pools_follow_a_machine_that_has_changed(tmp_path: Path) -> None:
    async def scenario(agent: Agent) -> None:
        await agent.unbind()
        on_another_machine(agent)
        await agent.until(lambda: agent.layout.saved is not None and agent.layout.saved.topology == TOPOLOGY)
        assert agent.node.service.ledger.layout.cpus_of("exclusive") == FIRST
        assert (agent.reason, [entry.outcome for entry in agent.history.entries]) == (None, ["applied"])

    on_agent(tmp_path, scenario)


def test_owners_keep_their_cores_on_a_machine_that_has_changed_and_pools_follow_them(tmp_path: Path) -> None:
    async def scenario(agent: Agent) -> None:
        async with await agent.node.ask() as client:
            await client.answer()
            on_another_machine(agent)
            await agent.until(lambda: agent.reason is Obstacle.MACHINE_CHANGED)
            counts = f"{len(CPUS)} CPUs, layout made for 1: CPUs "
            assert agent.text.startswith(counts)
            assert agent.text.endswith("; the pools follow when those end that hold cores of the old ones")
            agent.node.wakeups.wake_both()
            await agent.until(lambda: bool(agent.events))
            assert [event[0] for event in agent.events] == ["MachineChanged"]
            assert os.sched_getaffinity(client.pid) == EXCLUSIVE
            # Its core is no one's after it: the new pools have another.
            assert agent.change_pools.coming is not None
        await agent.unbind()
        await agent.until(lambda: agent.layout.saved is not None and agent.layout.saved.topology == TOPOLOGY)
        assert agent.reason is None

    on_agent(tmp_path, scenario)


def test_who_comes_when_the_last_owner_ends_is_not_moved_either(tmp_path: Path) -> None:
    async def scenario(agent: Agent) -> None:
        async with await agent.node.ask() as client, await agent.node.ask() as second:
            await client.answer()
            on_another_machine(agent)
            await agent.until(lambda: agent.reason is Obstacle.MACHINE_CHANGED)
            await agent.node.waiting(1)
            await client.kill()
            assert (await second.answer())[1] == EXCLUSIVE
            agent.node.wakeups.wake_both()
            await asyncio.sleep(0.2)
            assert os.sched_getaffinity(second.pid) == EXCLUSIVE
            assert [event[0] for event in agent.events] == ["MachineChanged"]

    on_agent(tmp_path, scenario)


def test_paused_a_machine_that_has_changed_is_told_once_whatever_owners_do(tmp_path: Path) -> None:
    async def scenario(agent: Agent) -> None:
        on_another_machine(agent)
        agent.want(msgspec.structs.replace(COUNTED, paused=True))
        for _ in range(3):
            async with await agent.node.ask() as client:
                await client.answer()
            await agent.until(lambda: agent.text.endswith("; nothing is done about it, for paused is true"))
            agent.node.wakeups.wake_both()
        assert [event[0] for event in agent.events][-1:] == ["MachineChanged"]
        assert len(agent.events) <= 2  # one before it was paused
        assert agent.change_pools.coming is None

    on_agent(tmp_path, scenario)


def test_a_disk_that_is_full_is_told_instead_of_the_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario(agent: Agent) -> None:
        async with await agent.node.ask() as client:
            await client.answer()
            on_another_machine(agent)
            await agent.until(lambda: agent.reason is Obstacle.MACHINE_CHANGED)

            def full(_: SavedLayout) -> None:
                raise StateError("the disk is full")

            monkeypatch.setattr(agent.node.files, "write_layout", full)
            agent.want(msgspec.structs.replace(COUNTED, hash="other", taint=not COUNTED.taint))
            await agent.until(lambda: agent.text == "the disk is full")
            for _ in range(3):
                agent.node.wakeups.wake_both()
                await asyncio.sleep(0.02)
            assert [event[0] for event in agent.events] == ["MachineChanged"]

    on_agent(tmp_path, scenario)
