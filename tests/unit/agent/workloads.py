"""Processes that ask an allocator, without a server between them."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path

from cmk.agent.allocator import Allocator, Waiting
from cmk.agent.files import StateFiles
from cmk.agent.pod_cache import PodCache
from cmk.agent.wakeups import Wakeups
from cmk.host.notify import Notifier
from cmk.host.peer import Peer
from cmk.host.procfs import Procfs
from cmk.model.layout import Layout
from cmk.model.ledger import Ledger
from cmk.model.tasks import Task
from cmk.model.wire import Isolate
from tests.unit.agent.harness import LAYOUT, PLACE, options_in

LIST = Isolate("exclusive", affinity=False)


class Workload:
    """A process that sleeps, as a peer."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process
        self.peer = Peer(process.pid, os.pidfd_open(process.pid))

    @classmethod
    async def start(cls) -> Workload:
        return cls(await asyncio.create_subprocess_exec("sleep", "60"))

    async def end(self) -> None:
        if self._process.returncode is None:
            self._process.kill()
            await self._process.wait()


def on_allocator(
    root: Path, scenario: Callable[[Allocator, Workload, Workload], Awaitable[None]], layout: Layout = LAYOUT
) -> None:
    """Run a scenario with two processes, on pools without grants."""

    async def run() -> None:
        allocator = allocator_in(root, layout)
        first, second = await Workload.start(), await Workload.start()
        try:
            await scenario(allocator, first, second)
        finally:
            allocator.close()
            await first.end()
            await second.end()

    asyncio.run(run())


def allocator_in(root: Path, layout: Layout = LAYOUT) -> Allocator:
    """The allocator of an agent that starts with the files in a directory; it has adopted nothing yet."""
    procfs, ledger = Procfs(), Ledger(layout, require_grant=False)
    notifier, files = Notifier([root], procfs), StateFiles(options_in(root), procfs)
    return Allocator(ledger, PodCache(list_pods, lambda: None), procfs, files, Wakeups(), lambda: None, notifier)


async def later(allocator: Allocator, workload: Workload) -> dict[str, str]:
    """Ask for an exclusive list and wait until there is one."""
    outcome = allocator.isolate(LIST, workload.peer)
    if isinstance(outcome, Waiting):
        outcome = await asyncio.wait_for(allocator.isolate_later(LIST, workload.peer, outcome, partial(asyncio.sleep, 0)), 20)
    return outcome


def saved(root: Path) -> list[tuple[int, str]]:
    """Pid and pool of the tasks that the next agent would find."""
    return [(task.process.pid, task.pool) for task in StateFiles(options_in(root), Procfs()).read_tasks().tasks]


async def list_pods() -> list[dict[str, object]]:
    """No pod is on the node."""
    return []


def handed_over(allocator: Allocator, workload: Workload) -> list[Task]:
    """What the tasks file says of a process that was about to move to the shared pool when the agent was killed."""
    process = Procfs().process(workload.peer.pid)
    core, shared = (LAYOUT.pools[name].lists[0].name for name in ("exclusive", "shared"))
    return [Task(process, "exclusive", (core,), PLACE.pod, PLACE.container), Task(process, "shared", (shared,), PLACE.pod)]
