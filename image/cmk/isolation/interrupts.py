"""The layer ``isolation.irqs``: interrupts that can be moved leave exclusive cores, and new ones go elsewhere.

The only writer of interrupt affinities.
"""

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


class ProcIrq:
    """The directory ``/proc/irq``, or where it is mounted writable."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def affinities(self) -> dict[int, CpuSet]:
        """CPUs each interrupt may go to, by its number; an interrupt that is freed meanwhile is left out."""
        affinities = {}
        for name in os.listdir(self._root):  # noqa: PTH208
            if name.isdigit():
                try:
                    affinities[int(name)] = cpuset.parse((self._root / name / "smp_affinity_list").read_text())
                except FileNotFoundError:
                    continue
        return dict(sorted(affinities.items()))

    def set_affinity(self, number: int, cpus: CpuSet) -> None:
        """Set the CPUs an interrupt may go to; raises OSError (EIO, EPERM: the driver or the kernel manages it)."""
        kernel_file.write(self._root / str(number) / "smp_affinity_list", cpuset.kernel_list(cpus))

    def default(self) -> CpuSet:
        """CPUs that new interrupts may go to."""
        bits = int((self._root / "default_smp_affinity").read_text().strip().replace(",", ""), 16)
        return frozenset(cpu for cpu in range(bits.bit_length()) if bits >> cpu & 1)

    def set_default(self, cpus: CpuSet) -> None:
        """Set the CPUs that new interrupts may go to: a mask in words of 32 bits."""
        bits = sum(1 << cpu for cpu in cpus)
        words = []
        while bits:
            words.append(f"{bits & (1 << _WORD) - 1:08x}")
            bits >>= _WORD
        kernel_file.write(self._root / "default_smp_affinity", ",".join(reversed(words)))

    def name(self, number: int) -> str:
        """An interrupt's number with the devices that use it, as far as the kernel names them."""
        try:
            users = sorted(entry.name for entry in (self._root / str(number)).iterdir() if entry.is_dir())
        except FileNotFoundError:
            users = []
        return f"{number} ({', '.join(users)})" if users else str(number)


class InterruptLayer:
    """Affinities of interrupts, narrowed and restored. ``others``, here and below: all CPUs but the closed ones."""

    def __init__(self, irqs: ProcIrq, procfs: Procfs, originals: Originals) -> None:
        self._irqs = irqs
        self._procfs = procfs
        self._originals = originals

    def isolate(self, closed: CpuSet, others: CpuSet) -> LayerState:
        """Move interrupts off ``closed`` CPUs: to the rest of their own, or to ``others`` when nothing is left. Raises StateError.

        CPUs that were closed before are given back, unless another program moved the interrupt since.
        """
        saved = self._originals.saved
        others_before = (closed | others) - saved.closed

        def wanted(now: CpuSet, before: CpuSet) -> CpuSet:
            unchanged = before and now == (before - saved.closed or others_before)
            return (before if unchanged else now) - closed or others

        current = self._irqs.affinities()
        targets = {number: wanted(cpus, saved.irqs.get(number, frozenset())) for number, cpus in current.items()}
        moves = {number: cpus for number, cpus in targets.items() if cpus != current[number]}
        default = self._irqs.default()
        wanted_default = wanted(default, saved.default_irq)
        added = {number: current[number] for number in moves if number not in saved.irqs}
        if added or (wanted_default != default and not saved.default_irq):
            self._originals.save_irqs({**saved.irqs, **added}, saved.default_irq or default)
        if wanted_default != default:
            self._irqs.set_default(wanted_default)
        left = []
        for number, cpus in moves.items():
            try:
                self._irqs.set_affinity(number, cpus)
            except FileNotFoundError:
                continue
            except OSError as error:
                left.append(f"{self._irqs.name(number)}: {error.strerror}")
        return LayerState(ON, self._irqbalance_warning(closed), tuple(left))

    def restore(self, closed: CpuSet, others: CpuSet) -> None:
        """Give interrupts their original affinities back, except those that another program moved since. Raises StateError."""
        saved = self._originals.saved
        current = self._irqs.affinities()
        for number, before in saved.irqs.items():
            if current.get(number) == (before - closed or others):
                try:
                    self._irqs.set_affinity(number, before)
                except OSError:
                    continue  # the interrupt refused to be moved before, or is freed
        if saved.default_irq and self._irqs.default() == (saved.default_irq - closed or others):
            self._irqs.set_default(saved.default_irq)
        if saved.irqs or saved.default_irq:
            self._originals.save_irqs({}, frozenset())

    def _irqbalance_warning(self, closed: CpuSet) -> str:
        """A warning when irqbalance runs, which moves interrupts as it likes; else empty."""
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
