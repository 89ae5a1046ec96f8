"""Interrupts off exclusive cores: those that can be moved, and where new ones go. The only writer of interrupt affinities."""

from __future__ import annotations

import os
from pathlib import Path

from cmk.host.procfs import Procfs
from cmk.isolation import kernel_file
from cmk.isolation.originals import Originals
from cmk.model import cpuset
from cmk.model.cpuset import CpuSet
from cmk.model.isolation_config import ON, LayerState

_WORD = 32

IRQBALANCE = "irqbalance"


class IrqLayer:
    """The layer ``isolation.irqs``."""

    def __init__(self, irqs: Irqs, procfs: Procfs, originals: Originals) -> None:
        self._irqs = irqs
        self._procfs = procfs
        self._originals = originals

    def on(self, closed: CpuSet, others: CpuSet) -> LayerState:
        """Move what is on ``closed`` CPUs to the rest of its own, or to ``others`` when it has no rest; and back to what is open again,
        unless somebody has moved it since.
        """
        saved = self._originals.saved
        rest = (closed | others) - saved.closed

        def wanted(now: CpuSet, before: CpuSet) -> CpuSet:
            ours = before and now == (before - saved.closed or rest)
            return (before if ours else now) - closed or others

        found = self._irqs.affinities()
        all_wanted = {number: wanted(cpus, saved.irqs.get(number, frozenset())) for number, cpus in found.items()}
        moves = {number: cpus for number, cpus in all_wanted.items() if cpus != found[number]}
        now = self._irqs.default()
        default = wanted(now, saved.default_irq)
        news = {number: found[number] for number in moves if number not in saved.irqs}
        if news or (default != now and not saved.default_irq):
            self._originals.save_irqs({**saved.irqs, **news}, saved.default_irq or now)
        if default != now:
            self._irqs.set_default(default)
        left = []
        for number, cpus in moves.items():
            try:
                self._irqs.set_affinity(number, cpus)
            except FileNotFoundError:
                continue
            except OSError as error:
                left.append(f"{self._irqs.name(number)}: {error.strerror}")
        return LayerState(ON, self._balancer(closed), tuple(left))

    def off(self, closed: CpuSet, others: CpuSet) -> None:
        """Give back what still is as we left it; what somebody has moved since is his."""
        saved = self._originals.saved
        found = self._irqs.affinities()
        for number, before in saved.irqs.items():
            if found.get(number) == (before - closed or others):
                try:
                    self._irqs.set_affinity(number, before)
                except OSError:
                    continue  # it refused when we moved it, or is gone
        if saved.default_irq and self._irqs.default() == (saved.default_irq - closed or others):
            self._irqs.set_default(saved.default_irq)
        if saved.irqs or saved.default_irq:
            self._originals.save_irqs({}, frozenset())

    def _balancer(self, closed: CpuSet) -> str:
        """A word of warning when irqbalance runs: it moves interrupts as it likes."""
        for pid in self._procfs.pids():
            try:
                if self._procfs.name(pid) == IRQBALANCE:
                    return (
                        f"irqbalance (process {pid}) may move interrupts back: set IRQBALANCE_BANNED_CPULIST="
                        f"{cpuset.kernel_list(closed)} in its configuration (/etc/default/irqbalance or /etc/sysconfig/irqbalance)"
                    )
            except ProcessLookupError:
                continue
        return ""


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
        kernel_file.write(self._root / str(number) / "smp_affinity_list", cpuset.kernel_list(cpus))

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
        kernel_file.write(self._root / "default_smp_affinity", ",".join(reversed(words)))

    def name(self, number: int) -> str:
        """Number and the device that uses it, as far as it is told."""
        try:
            users = sorted(entry.name for entry in (self._root / str(number)).iterdir() if entry.is_dir())
        except FileNotFoundError:
            users = []
        return f"{number} ({', '.join(users)})" if users else str(number)
