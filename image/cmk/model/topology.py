"""Logical CPUs, physical cores and sockets of one node, numbered as ``lscpu -p`` numbers them."""

from __future__ import annotations

import msgspec

from cmk.model import cpuset
from cmk.model.cpuset import CpuSet


class Core(msgspec.Struct, frozen=True):
    """One physical core: its ``lscpu`` number, its socket and its online threads.

    ``base_frequency`` (kHz, 0 unknown) distinguishes cores under SST-BF, ``energy_preference`` (of the cpufreq driver) under SST-CP.
    """

    id: int
    socket: int
    cpus: CpuSet
    isolated_cpus: CpuSet = frozenset()
    base_frequency: int = 0
    energy_preference: str = ""

    @property
    def isolated(self) -> bool:
        """Whether every thread is isolated: a partly isolated core counts as not isolated (CMK's rule)."""
        return self.cpus == self.isolated_cpus

    @property
    def partly_isolated(self) -> bool:
        """Whether some but not all threads are isolated."""
        return bool(self.isolated_cpus) and not self.isolated


class Topology(msgspec.Struct, frozen=True, omit_defaults=True):
    """All online cores of a node, ordered by core number.

    ``isolated_from`` lists the sources that named isolated CPUs: ``sysfs``, ``cmdline``, both or none. ``unbalanced`` are CPUs without
    scheduler domains: the kernel never moves a task from one to another. ``nohz_full`` are CPUs without a periodic tick. ``warnings`` say
    where the kernel does not do what its command line asks for.
    """

    cores: tuple[Core, ...]
    isolated_from: tuple[str, ...] = ()
    unbalanced: CpuSet = frozenset()
    nohz_full: CpuSet = frozenset()
    warnings: tuple[str, ...] = ()

    @property
    def has_isolated(self) -> bool:
        """Whether any core is isolated: then pools get only isolated cores by number."""
        return any(core.isolated for core in self.cores)

    @property
    def cpus(self) -> CpuSet:
        """Every online logical CPU."""
        return frozenset().union(*(core.cpus for core in self.cores))

    @property
    def sockets(self) -> tuple[int, ...]:
        """Socket numbers, ascending."""
        return tuple(sorted({core.socket for core in self.cores}))

    @property
    def shape(self) -> tuple[tuple[int, CpuSet], ...]:
        """Sockets and CPUs of the cores: what a layout depends on that no reboot may change behind its back."""
        return tuple((core.socket, core.cpus) for core in self.cores)


def difference(machine: Topology, made_for: Topology) -> str:
    """In which way a machine is another one than a layout was made for; "" if it is not."""
    if machine.shape == made_for.shape:
        return ""
    now, before = machine.cpus, made_for.cpus
    if now == before:
        return "cores and sockets have other CPUs than those that the layout was made for"
    changes = [
        f"{cpuset.kernel_list(cpus)} {text}"
        for cpus, text in ((now - before, "are new"), (before - now, "are gone or offline"))
        if cpus
    ]
    return f"{len(now)} CPUs, layout made for {len(before)}: CPUs {' and '.join(changes)}"
