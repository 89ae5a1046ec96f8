"""Fabricated hosts with two pods: an owner, which may have an exclusive core in one of its two containers, and another."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import pytest

from cmk.host.procfs import Procfs
from cmk.isolation.layers import HostPaths, Layers
from cmk.isolation.originals import Originals
from cmk.isolation.pod_layer import PodLayer
from cmk.model import cpuset
from cmk.model.isolation_config import Isolation
from cmk.model.layout import CpuList, Layout, Pool
from cmk.model.ledger import Ledger
from cmk.model.tasks import Process, Task
from cmk.model.topology import Core, Topology
from tests.unit.agent.harness import LAYOUT, TOPOLOGY
from tests.unit.isolation.cgrouptree import UID, Kernel, Killed, add, container, make, pod_directory, snapshot

ALL = f"0-{max(TOPOLOGY.cpus)}"
OWNER_POD, OTHER_POD = pod_directory(1, "besteffort"), pod_directory(2, "burstable")
OWNER, SIDECAR = f"{OWNER_POD}/{container('a')}", f"{OWNER_POD}/{container('b')}"
OTHER = f"{OTHER_POD}/{container('a')}"
GROUPS = ["", "besteffort", "burstable", OWNER_POD, OWNER, SIDECAR, OTHER_POD, OTHER]
CORE = LAYOUT.pools["exclusive"].lists[0]
TASK = Task(Process(1, 1), "exclusive", (CORE.name,), UID.format(1), "a" * 64)
# Of an agent on these hosts. It ends a search for the last write that would find none.
MORE_THAN_ALL_WRITES = 100

# Four CPUs: an exclusive core moves from the last to the one before.
FOUR = Topology(tuple(Core(cpu, 0, frozenset({cpu})) for cpu in range(4)))
LAST, BEFORE = (CpuList(frozenset({cpu}), 0) for cpu in (3, 2))
AT_LAST, AT_BEFORE = (msgspec.structs.replace(TASK, lists=(item.name,)) for item in (LAST, BEFORE))


def four(exclusive: CpuList) -> Layout:
    infra = CpuList(FOUR.cpus - exclusive.cpus, 0)
    return Layout({"exclusive": Pool("exclusive", True, (exclusive,)), "infra": Pool("infra", False, (infra,))})


class Host:
    """A host's cgroups and state directory, on which ``layers`` makes an agent's; ``kernel`` is that of the last one.

    ``original``: all files of its cgroups before any agent.
    """

    def __init__(self, root: Path, *, strict: bool = True, topology: Topology = TOPOLOGY, layout: Layout = LAYOUT) -> None:
        self.file = root / "state/isolation.json"
        self.file.parent.mkdir(parents=True)
        # Only this very process, so that no test reads others, or moves them.
        (root / "proc/sys/kernel/random").mkdir(parents=True)
        (root / "proc/sys/kernel/random/boot_id").write_text("this boot\n")
        (root / f"proc/{os.getpid()}").symlink_to(f"/proc/{os.getpid()}")
        self.procfs = Procfs(root / "proc")
        self.cgroups = root / "cgroup"
        cpus = cpuset.kernel_list(topology.cpus)
        self.kernel = make(self.cgroups, dict.fromkeys(GROUPS, cpus if strict else ""), strict=strict, cpus=cpus)
        self.topology = topology
        self.strict = strict
        self.ledger = Ledger(layout)
        self.original = snapshot(self.cgroups)

    def layers(self, *, die_at: int = -1, cgroups: bool = True) -> Layers:
        paths = HostPaths(self.file, self.cgroups if cgroups else None)
        return Layers(paths, self.procfs, self.ledger, self.topology, lambda: None, self._opener(die_at))

    def pod_layer(self, settings: Isolation, *, cgroups: bool = True) -> PodLayer:
        """The pod layer of an agent with these settings."""
        originals = Originals(self.file, self.procfs.boot_id())
        originals.load()
        originals.save_settings(settings)
        directory = self.cgroups if cgroups else None
        return PodLayer(directory, self.procfs, self.ledger, self.topology, originals, lambda: None, self._opener())

    def directory(self, path: str) -> Path:
        return self.kernel.directory(path)

    def add(self, path: str) -> None:
        """One more group, with the CPUs of its parent."""
        add(self.directory(path), cpuset.kernel_list(self.topology.cpus) if self.strict else "", strict=self.strict)
        self.kernel.refresh()

    def may_use(self, path: str) -> str:
        return cpuset.kernel_list(self.kernel.effective(path))

    def with_core(self, core: CpuList = CORE) -> set[str]:
        """Containers that may use a core."""
        return {path for path in (OWNER, SIDECAR, OTHER) if core.cpus & self.kernel.effective(path)}

    def _opener(self, die_at: int = -1) -> Callable[[Path], Kernel]:
        def open_tree(path: Path) -> Kernel:
            self.kernel = Kernel(path)
            self.kernel.die_at = die_at
            return self.kernel

        return open_tree


def killed_at_each_write(root: Path, settings: Isolation, *, strict: bool) -> Iterator[Host]:
    """Hosts with the task, on each of which an agent that applied the settings was killed one write later; on the last it was not."""
    for die_at in range(MORE_THAN_ALL_WRITES):
        host = Host(root / str(die_at), strict=strict)
        assert host.ledger.restore(TASK)
        layers = host.layers(die_at=die_at)
        try:
            layers.apply(settings, "")
            killed = False
        except Killed:
            killed = True
        layers.stop()
        yield host
        if not killed:
            assert die_at, "there was no write to be killed at"
            return
    pytest.fail("always killed")


def undo_killed_at_each_write(host: Host) -> None:
    """Agent after agent undoes what the one before left; each is killed one write later."""
    for die_at in range(MORE_THAN_ALL_WRITES):
        layers = host.layers(die_at=die_at)
        try:
            layers.resume()
            layers.undo()
            return
        except Killed:
            layers.stop()
    pytest.fail("never undone")


def in_loop(scenario: Callable[[], None]) -> None:
    async def run() -> None:
        scenario()

    asyncio.run(run())
