"""Interrupt affinities as procfs shows them (Documentation/core-api/irq/irq-affinity.rst). Methods raise OSError."""

from __future__ import annotations

import os
from pathlib import Path

from cmk.host import kernelfile
from cmk.model import cpuset
from cmk.model.cpuset import CpuSet

_WORD = 32


class Irqs:
    """The directory ``/proc/irq``, or where it is mounted writable."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def affinities(self) -> dict[int, CpuSet]:
        """CPUs each interrupt may go to; one that is freed meanwhile is left out."""
        found = {}
        for name in os.listdir(self._root):  # noqa: PTH208
            if name.isdigit():
                try:
                    found[int(name)] = cpuset.parse((self._root / name / "smp_affinity_list").read_text())
                except FileNotFoundError:
                    continue
        return dict(sorted(found.items()))

    def set_affinity(self, number: int, cpus: CpuSet) -> None:
        """Have an interrupt go elsewhere; raises OSError (EIO, EPERM: the driver or the kernel manages it)."""
        kernelfile.write(self._root / str(number) / "smp_affinity_list", cpuset.kernel_list(cpus))

    def default(self) -> CpuSet:
        """CPUs that new interrupts may go to."""
        bits = int((self._root / "default_smp_affinity").read_text().strip().replace(",", ""), 16)
        return frozenset(cpu for cpu in range(bits.bit_length()) if bits >> cpu & 1)

    def set_default(self, cpus: CpuSet) -> None:
        """Set that: a mask in words of 32 bits."""
        bits = sum(1 << cpu for cpu in cpus)
        words = []
        while bits:
            words.append(f"{bits & (1 << _WORD) - 1:08x}")
            bits >>= _WORD
        kernelfile.write(self._root / "default_smp_affinity", ",".join(reversed(words)))

    def name(self, number: int) -> str:
        """Number and the device that uses it, as far as it is told."""
        try:
            users = sorted(entry.name for entry in (self._root / str(number)).iterdir() if entry.is_dir())
        except FileNotFoundError:
            users = []
        return f"{number} ({', '.join(users)})" if users else str(number)
