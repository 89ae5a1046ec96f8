"""What goes on while a change of pools pauses: real processes and sockets, and a change that waits in its middle."""

from __future__ import annotations

import asyncio
import errno
import os
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from cmk.agent import turns
from cmk.host import state
from cmk.host.journal import ChangeError, JournaledChange
from cmk.host.pauses import Pausing
from cmk.host.procfs import Procfs
from cmk.model.cgroup_path import PodContainer
from cmk.model.config import Section
from cmk.model.layout import CpuList, Layout, Pool, SavedLayout
from cmk.model.plan import plan
from tests.unit.agent.harness import EXCLUSIVE, LAYOUT, SHARED, TOPOLOGY, Node, on_node

pytestmark = pytest.mark.usefixtures("clients_in_pod", "own_affinity")

# On CPUs that no machine has, for requests that pin nothing: the change does not concern it.
ELSEWHERE = Pool("elsewhere", True, (CpuList(frozenset({4000}), 0),))
BEFORE = Layout({**LAYOUT.pools, "elsewhere": ELSEWHERE})
_SWAPPED = {"exclusive": SHARED, "shared": EXCLUSIVE, "infra": EXCLUSIVE}
AFTER = Layout(
    {
        "elsewhere": ELSEWHERE,
        **{name: Pool(name, LAYOUT.pools[name].exclusive, (CpuList(cpus, 0),)) for name, cpus in _SWAPPED.items()},
    }
)


class Paused:
    """A change whose tasks move when ``go`` is called."""

    def __init__(self, node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
        self._gate = asyncio.Event()
        self.begun = asyncio.Event()
        move = JournaledChange.move

        def waiting(changer: JournaledChange, *args: Any, **options: Any) -> Pausing[Any]:  # noqa: ANN401
            self.begun.set()
            while not self._gate.is_set():
                yield
            return (yield from move(changer, *args, **options))

        monkeypatch.setattr(JournaledChange, "move", waiting)
        monkeypatch.setattr(turns, "SECONDS_AT_ONCE", 0)
        node.service.ledger.end(BEFORE, [*node.service.ledger.tasks.values()])
        before, after = (SavedLayout(layout, Section({}, "h"), "default", TOPOLOGY) for layout in (BEFORE, AFTER))
        planned = plan(BEFORE, AFTER, node.service.ledger.tasks.values())
        self.change = asyncio.get_running_loop().create_task(node.service.change(before, after, planned))

    async def go(self) -> None:
        """Let the tasks move, and wait until they have."""
        self._gate.set()
        await self.change


@pytest.fixture
def only_owners_together(monkeypatch: pytest.MonkeyPatch, clients_in_pod: None) -> None:
    """Clients that ask for another pool than exclusive are in a container of their own."""
    place = Procfs.pod_container

    def other(self: Procfs, pid: int) -> PodContainer:
        found = place(self, pid)
        is_owner = b"pool=exclusive" in Path(f"/proc/{pid}/cmdline").read_bytes()
        return found if is_owner or not found.pod else PodContainer(found.pod, "cd" * 32)

    monkeypatch.setattr(Procfs, "pod_container", other)


def in_a_change(root: Path, scenario: Callable[[Node, Callable[[], Paused]], Awaitable[None]], patch: pytest.MonkeyPatch) -> None:
    """Run a scenario on a node; the function that it gets begins the change."""
    on_node(root, lambda node: scenario(node, lambda: Paused(node, patch)), require_request=False)


@pytest.mark.usefixtures("only_owners_together")
def test_who_asks_for_what_the_change_does_not_concern_is_served_in_its_middle(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scenario(node: Node, begin: Callable[[], Paused]) -> None:
        async with await node.ask() as owner:
            await owner.answer()
            paused = begin()
            await paused.begun.wait()
            async with await node.ask("elsewhere", affinity=0) as other, await node.ask("shared") as late:
                assert (await other.answer())[0].splitlines()[1] == "CMK_CPUS_ASSIGNED=4000"
                await node.waiting(1)
                assert node.options.journal_file.exists()
                assert not paused.change.done()
                await paused.go()
                assert (await late.answer())[1] == EXCLUSIVE
                assert os.sched_getaffinity(owner.pid) == SHARED
                assert (node.tasks("exclusive"), node.tasks("elsewhere")) == ([owner.pid], [other.pid])
                assert {task.process.pid for task in node.files.read_tasks().tasks} >= {owner.pid, other.pid, late.pid}

    in_a_change(tmp_path, scenario, monkeypatch)


def test_who_ends_in_the_middle_of_the_change_has_nothing_after_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario(node: Node, begin: Callable[[], Paused]) -> None:
        async with await node.ask("shared") as ending, await node.ask() as owner:
            await ending.answer()
            await owner.answer()
            paused = begin()
            await paused.begun.wait()
            await ending.kill()
            await asyncio.sleep(0.05)
            await paused.go()
            await node.until(lambda: node.tasks("shared") == [])
            assert node.tasks("exclusive") == [owner.pid]

    in_a_change(tmp_path, scenario, monkeypatch)


def test_what_a_task_that_ends_in_the_middle_has_left_keeps_its_core(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario(node: Node, begin: Callable[[], Paused]) -> None:
        async with await node.ask() as owner:
            await owner.answer()
            child = await owner.orphan()
            paused = begin()
            await paused.begun.wait()
            await owner.kill()
            await asyncio.sleep(0.05)
            await paused.go()
            assert os.sched_getaffinity(child) == SHARED
            assert node.tasks("exclusive") == [owner.pid]
            os.kill(child, 9)
            await node.until(lambda: node.tasks("exclusive") == [])

    in_a_change(tmp_path, scenario, monkeypatch)


def test_a_process_beside_a_task_that_moves_waits_for_the_end_of_the_change(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may be one that the task has started, which moves with it."""

    async def scenario(node: Node, begin: Callable[[], Paused]) -> None:
        async with await node.ask() as owner:
            await owner.answer()
            paused = begin()
            await paused.begun.wait()
            async with await node.ask("elsewhere", affinity=0) as beside:
                await node.waiting(1)
                assert node.tasks("elsewhere") == []
                await paused.go()
                assert (await beside.answer())[0].startswith("cmk/1 ok")

    in_a_change(tmp_path, scenario, monkeypatch)


def test_a_journal_of_which_nobody_knows_whether_it_is_on_disk_is_forgotten(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scenario(node: Node, begin: Callable[[], Paused]) -> None:
        failures = iter([OSError(errno.EIO, "Input/output error")])

        def fail_once(_: Path) -> None:
            for failure in failures:
                raise failure

        monkeypatch.setattr(state, "_sync_directory", fail_once)
        async with await node.ask() as owner:
            await owner.answer()
            with pytest.raises(ChangeError, match="Input/output error"):
                await begin().go()
            assert not list(tmp_path.rglob("journal.json*"))
            async with await node.ask("shared") as other:
                assert (await other.answer())[1] == SHARED

    in_a_change(tmp_path, scenario, monkeypatch)
