"""The serving process of bench size: the real service on a node that was written down for it, and what its event loop has to say.

It reads one word at a time: ``stall`` (the longest since the last one), ``change`` (the infra CPU and the exclusive core change places) or
``keepout`` (the layer pods is switched on), and replies with one line of JSON each time. It ends with its input.
"""

from __future__ import annotations

import asyncio
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

import msgspec

from cmk.agent.files import StateFiles
from cmk.agent.limits import Limits, raise_number_of_files
from cmk.agent.options import Options
from cmk.agent.pod_cache import PodCache
from cmk.agent.service import Service
from cmk.agent.wakeups import Wakeups
from cmk.host.procfs import Procfs
from cmk.model.config import Section
from cmk.model.isolation_config import Isolation
from cmk.model.layout import Layout, SavedLayout
from cmk.model.plan import plan
from cmk.model.pods import Pod
from cmk.model.tasks import Task, TasksFile
from cmk.model.topology import Topology

SECONDS_BETWEEN_TICKS = 0.002
# The limits of one pod are not what is measured.
LIMITS = Limits(tasks=1_000_000, requests_per_second=1_000_000)


class NodeFile(msgspec.Struct, frozen=True):
    """A node: its pools now and after a change, the tasks of an earlier agent, the pods that the API server knows, the root of cpusets."""

    layout: Layout
    coming: Layout
    topology: Topology
    tasks: list[Task]
    pods: list[Pod]
    cgroups: str


class Ticks:
    """A timer of the event loop that tells for how long it did not tick."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._longest = 0.0
        self._last = time.monotonic()
        self._asked: list[Callable[[float], None]] = []
        self._tick()

    def ask(self, reply: Callable[[float], None]) -> None:
        """Tell how many milliseconds the longest pause was since this was asked last, after the one that goes on now."""
        self._asked.append(reply)

    def _tick(self) -> None:
        now = time.monotonic()
        self._longest, self._last = max(self._longest, now - self._last), now
        self._loop.call_later(SECONDS_BETWEEN_TICKS, self._tick)
        for reply in self._asked:
            reply(self._longest * 1000)
            self._longest = 0.0
        self._asked.clear()


class Serving:
    """The service on the node, with its files below a directory."""

    def __init__(self, root: Path) -> None:
        self._node = msgspec.json.decode((root / "node.json").read_bytes(), type=NodeFile)
        node, paths = self._node, [root / name for name in ("opt", "run", "state")]
        for path in paths:
            path.mkdir()
        (root / "launcher").write_bytes(b"no program")
        options = Options("node", "ns", "c", "h", *paths, root / "launcher", cgroups=Path(node.cgroups), limits=LIMITS)
        procfs = Procfs(cgroups=Path(node.cgroups))

        async def nobody() -> list[dict[str, object]]:
            return []

        pods = PodCache(nobody, lambda: None)
        pods.remember(node.pods)
        self._service = Service(options, StateFiles(options, procfs), node.layout, node.topology, pods, Wakeups())
        self._service.start(TasksFile(procfs.boot_id(), node.tasks))
        self._ticks = Ticks()
        self._seconds = 0.0  # of the last change
        loop = asyncio.get_running_loop()
        self._ended = loop.create_future()
        # What nobody expects ends this process, so that the bench ends too instead of a wait for a reply.
        loop.set_exception_handler(lambda _, context: self._end(context.get("exception") or RuntimeError(context["message"])))
        loop.add_reader(0, self._on_input)

    async def ended(self) -> None:
        """Serve until the input ends. Raises what a callback has raised."""
        await self._ended
        self._service.stop()

    def _on_input(self) -> None:
        word = os.read(0, 100).decode().strip()
        if word == "change":
            self._changing = asyncio.get_running_loop().create_task(self._change())
            return
        elif word == "keepout":
            self._service.layers.apply(Isolation(), "")
        elif not word:
            self._end(None)
            return
        self._ticks.ask(self._reply)

    def _reply(self, stall: float) -> None:
        reply = {
            "stall": stall,
            "seconds": self._seconds,
            "tasks": len(self._service.ledger.tasks),
            "layers": self._service.layers.states(),
        }
        print(msgspec.json.encode(reply).decode(), flush=True)

    def _end(self, error: Exception | None) -> None:
        if self._ended.done():
            return
        if error is None:
            self._ended.set_result(None)
        else:
            self._ended.set_exception(error)

    async def _change(self) -> None:
        node, tasks = self._node, self._service.ledger.tasks.values()
        before, after = (
            SavedLayout(pools, Section({}, name), "", node.topology) for pools, name in ((node.layout, "a"), (node.coming, "b"))
        )
        begun = time.monotonic()
        try:
            await self._service.change(before, after, plan(node.layout, node.coming, tasks, node.pods))
        except Exception as error:
            self._end(error)
            raise
        self._seconds = time.monotonic() - begun
        self._ticks.ask(self._reply)


async def _serve(root: Path) -> None:
    await Serving(root).ended()


if __name__ == "__main__":
    raise_number_of_files()
    asyncio.run(_serve(Path(sys.argv[1])))
