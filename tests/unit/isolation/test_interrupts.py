"""Interrupts on a fabricated /proc/irq."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from cmk.host.procfs import Procfs
from cmk.isolation.interrupts import InterruptLayer, ProcIrq
from cmk.isolation.originals import Originals
from cmk.model.cpuset import CpuSet

CLOSED, OTHERS = frozenset({1, 2}), frozenset({0, 3})


class Table(ProcIrq):
    """Number 9 is managed by the kernel."""

    def set_affinity(self, number: int, cpus: CpuSet) -> None:
        if number == 9:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        (self._root / str(number) / "smp_affinity_list").write_text(
            ""
        )  # unlike the kernel's, a plain file keeps the rest of a longer text
        super().set_affinity(number, cpus)


@pytest.fixture
def irq(tmp_path: Path) -> Path:
    root = tmp_path / "irq"
    for number, cpus in {7: "0-3", 8: "1", 9: "2-3", 10: "0"}.items():
        (root / str(number)).mkdir(parents=True)
        (root / str(number) / "smp_affinity_list").write_text(f"{cpus}\n")
    (root / "9/virtio0-req.0").mkdir()
    (root / "default_smp_affinity").write_text("00000001,0000000f\n")
    return root


@pytest.fixture
def originals(tmp_path: Path) -> Originals:
    return Originals(tmp_path / "isolation.json", "boot")


@pytest.fixture
def procfs(tmp_path: Path) -> Procfs:
    (tmp_path / "proc").mkdir()
    return Procfs(tmp_path / "proc")


def affinities(root: Path) -> dict[str, str]:
    return {path.parent.name: path.read_text().strip() for path in sorted(root.glob("*/smp_affinity_list"))}


def test_interrupts_leave_and_come_back(irq: Path, procfs: Procfs, originals: Originals) -> None:
    layer = InterruptLayer(Table(irq), procfs, originals)
    before = affinities(irq)
    state = layer.isolate(CLOSED, OTHERS)
    assert affinities(irq) == {"7": "0,3", "8": "0,3", "9": "2-3", "10": "0"}
    assert state.left == ("9 (virtio0-req.0): Input/output error",)
    assert (irq / "default_smp_affinity").read_text() == "00000001,00000009\n"
    assert originals.saved.irqs == {7: frozenset({0, 1, 2, 3}), 8: frozenset({1}), 9: frozenset({2, 3})}
    saved = originals.saved
    layer.isolate(CLOSED, OTHERS)
    assert originals.saved is saved, "originals are saved once"
    layer.restore(CLOSED, OTHERS)
    assert affinities(irq) == before
    assert (irq / "default_smp_affinity").read_text() == "00000001,0000000f\n"
    assert originals.saved.irqs == {}


def test_an_interrupt_that_somebody_moved_since_stays_there(irq: Path, procfs: Procfs, originals: Originals) -> None:
    originals.save_irqs({7: frozenset({0, 1, 2, 3})}, frozenset())
    (irq / "7/smp_affinity_list").write_text("3\n")
    InterruptLayer(Table(irq), procfs, originals).restore(CLOSED, OTHERS)
    assert affinities(irq)["7"] == "3"


def test_irqbalance_is_warned_of(irq: Path, procfs: Procfs, originals: Originals) -> None:
    (procfs.root / "77").mkdir()
    (procfs.root / "77/comm").write_text("irqbalance\n")
    state = InterruptLayer(Table(irq), procfs, originals).isolate(CLOSED, OTHERS)
    assert "process 77" in state.reason
    assert "IRQBALANCE_BANNED_CPULIST=1-2" in state.reason


def test_a_change_of_pools_gives_back_the_cpus_that_they_leave(irq: Path, procfs: Procfs, originals: Originals) -> None:
    layer = InterruptLayer(Table(irq), procfs, originals)
    layer.isolate(CLOSED, OTHERS)
    originals.save_closed(CLOSED)
    (irq / "10/smp_affinity_list").write_text("3\n")  # not by cmk
    other = frozenset({0})
    layer.isolate(other, frozenset({1, 2, 3}))
    assert affinities(irq) == {"7": "1-3", "8": "1", "9": "2-3", "10": "3"}
    assert (irq / "default_smp_affinity").read_text() == "00000001,0000000e\n"
    originals.save_closed(other)
    layer.restore(other, frozenset({1, 2, 3}))
    assert affinities(irq) == {"7": "0-3", "8": "1", "9": "2-3", "10": "3"}
