"""An agent that starts with damaged files or on a full disk."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import Any

import msgspec
import pytest

from cmk.agent.files import StateFiles
from cmk.host import state
from cmk.host.procfs import Procfs
from tests.unit.agent.harness import EXCLUSIVE, Client, text_of
from tests.unit.agent.world import BOUND, ONE, LongLived, World, message


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
