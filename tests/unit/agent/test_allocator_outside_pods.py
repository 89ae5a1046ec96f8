"""What processes outside pods leave on exclusive cores: whoever descends from an owner there keeps its core, and moves with it."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
from pathlib import Path

import msgspec
import pytest

from cmk.agent import allocator
from cmk.agent.files import StateFiles
from cmk.agent.recovery import Recovery, UnfitError
from cmk.host.procfs import Procfs
from cmk.host.state import DamagedError
from cmk.model.config import Section
from cmk.model.layout import CpuList, Layout, Pool, SavedLayout
from cmk.model.plan import plan
from tests.unit.agent.harness import EXCLUSIVE, LAYOUT, SHARED, TOPOLOGY, Node, on_node, text_of

pytestmark = pytest.mark.usefixtures("own_affinity")


def test_an_orphan_keeps_the_core_until_it_ends(tmp_path: Path) -> None:
    async def scenario(node: Node) -> None:
        async with await node.ask() as client:
            await client.answer()
            child = await client.orphan()
            await client.kill()
            async with await node.ask(timeout=600) as second:
                assert "error 75" in (await second.answer())[0]
            os.kill(child, signal.SIGKILL)
            await node.until(lambda: not node.tasks("exclusive"))

    on_node(tmp_path, scenario, require_request=False)


def test_the_next_agent_knows_orphans(tmp_path: Path) -> None:
    async def scenario(node: Node) -> None:
        async with await node.ask() as client:
            await client.answer()
            child = await client.orphan()
            node.service.save()
            await client.kill()
            node.service.stop()
            following = Node(tmp_path, require_request=False)
            following.start()
            try:
                assert following.tasks("exclusive") == [client.pid]
                os.kill(child, signal.SIGKILL)
                await following.until(lambda: not following.tasks("exclusive"))
            finally:
                following.service.stop()

    on_node(tmp_path, scenario, require_request=False)


def test_whom_somebody_else_has_pinned_there_keeps_no_core(tmp_path: Path) -> None:
    async def scenario(node: Node) -> None:
        with subprocess.Popen(["/bin/sh", "-c", "read go; sleep 60 & echo $!; wait"], stdin=-1, stdout=-1) as session:
            assert session.stdin is not None
            assert session.stdout is not None
            try:
                await asyncio.sleep(0.05)  # more than a clock tick, the unit of start times
                async with await node.ask() as client:
                    await client.answer()
                    session.stdin.write(b"go\n")
                    session.stdin.flush()
                    stranger = int(session.stdout.readline())
                    os.sched_setaffinity(stranger, EXCLUSIVE)
                    await client.kill()
                    await node.until(lambda: not node.tasks("exclusive"))
                    os.kill(stranger, signal.SIGKILL)
            finally:
                session.kill()

    on_node(tmp_path, scenario, require_request=False)


def test_an_orphan_moves_with_its_owner_s_pool(tmp_path: Path) -> None:
    other = {"exclusive": SHARED, "shared": EXCLUSIVE, "infra": EXCLUSIVE}
    swapped = Layout({name: Pool(name, LAYOUT.pools[name].exclusive, (CpuList(cpus, 0),)) for name, cpus in other.items()})
    now, wanted = (SavedLayout(layout, Section({}, "h"), "default", TOPOLOGY) for layout in (LAYOUT, swapped))

    async def scenario(node: Node) -> None:
        async with await node.ask() as client:
            await client.answer()
            child = await client.orphan()
            await client.kill()
            await node.service.change(now, wanted, plan(LAYOUT, swapped, node.service.ledger.tasks.values()))
            assert os.sched_getaffinity(child) == SHARED

    on_node(tmp_path, scenario, require_request=False)


def test_an_orphan_of_a_task_whose_process_has_moved_on_holds_its_core(tmp_path: Path) -> None:
    async def scenario(node: Node) -> None:
        async with await node.ask() as client:
            await client.answer()
            child = await client.orphan()
            assert (await client.again(text_of("shared")))[1] == SHARED
            assert (node.tasks("exclusive"), node.tasks("shared")) == ([child], [client.pid])
            tasks = StateFiles(node.options, Procfs()).read_tasks().tasks
            assert [msgspec.structs.asdict(task.origin)["first"].pid for task in tasks if task.origin] == [client.pid]

    on_node(tmp_path, scenario, require_request=False)


def test_who_has_more_ancestors_than_are_written_down_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(allocator, "MOST_ANCESTORS", 1)

    async def scenario(node: Node) -> None:
        async with await node.ask() as client:
            assert "has more than 1 ancestors" in (await client.answer())[0]
        async with await node.ask("shared") as client:
            assert (await client.answer())[0].startswith("cmk/1 ok")

    on_node(tmp_path, scenario, require_request=False)


def test_what_an_owner_has_left_counts_when_the_journal_is_damaged(tmp_path: Path) -> None:
    async def scenario(node: Node) -> None:
        async with await node.ask() as client:
            await client.answer()
            child = await client.orphan()
            node.files.write_layout(SavedLayout(LAYOUT, Section({}, "h"), "default", TOPOLOGY))
            node.service.save()
            await client.kill()
            with pytest.raises(UnfitError, match=f"either layout: .*{client.pid}"):
                Recovery(node.files, Procfs()).discard_journal(DamagedError("x"))
            os.kill(child, signal.SIGKILL)

    on_node(tmp_path, scenario, require_request=False)
