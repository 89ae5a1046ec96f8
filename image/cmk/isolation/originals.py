"""What everything on a node was before cmk isolated anything: saved before the first change, and what every layer is undone from."""

from __future__ import annotations

import logging
from pathlib import Path

import msgspec

from cmk.host import state
from cmk.model.cpuset import CpuSet
from cmk.model.isolation_config import Isolation, Thread

log = logging.getLogger(__name__)


class Saved(msgspec.Struct, frozen=True):
    """The content of the file of originals, whose field names a running node has on disk. A reboot makes it void.

    ``boot``: the boot id it belongs to. ``settings``: the layers as configured last. ``universe``: CPUs that kubepods could use.
    ``groups`` and ``slices``: configured CPUs of the cgroups below kubepods and beside it, by path (None: nothing configured).
    ``partitioned``: whether cmk may have made partitions. ``moved``: threads whose masks those partitions changed. ``irqs``: affinities by
    interrupt number. ``default_irq``: the affinity of new interrupts. ``threads``: threads of host processes. ``closed``: the exclusive
    CPUs that slices and interrupts were kept off last.
    """

    boot: str
    settings: Isolation
    universe: CpuSet = frozenset()
    groups: dict[str, CpuSet | None] = {}
    partitioned: bool = False
    moved: list[Thread] = []
    slices: dict[str, CpuSet | None] = {}
    irqs: dict[int, CpuSet] = {}
    default_irq: CpuSet = frozenset()
    threads: list[Thread] = []
    closed: CpuSet = frozenset()


class Originals:
    """The file of originals; ``saved`` is what it holds. The methods that save are durable, write only what differs, and raise StateError.

    Then ``saved`` is as before, so that nothing is changed on the node whose original is on no disk; but for settings and
    moved threads, whose changes hold all the same and are written with the next.
    """

    def __init__(self, file: Path, boot: str) -> None:
        self._on_disk: Saved | None = None
        self._file = state.StateFile(file, Saved, durable=True)
        self.saved = Saved(boot, Isolation())

    def load(self) -> bool:
        """Read what an earlier agent saved; False when it saved nothing since the last reboot. Raises StateError."""
        saved = self._file.read()
        if self._file.fault:
            log.error("%s", self._file.fault)
        if saved is None or saved.boot != self.saved.boot:
            return False  # cgroups, interrupts and threads of another boot are gone
        self.saved = saved
        self._on_disk = None if self._file.fault else saved
        return True

    @property
    def fault(self) -> str:
        """Why ``load`` has read the previous generation of the file; empty if it has not."""
        return self._file.fault

    def delete(self) -> None:
        """Remove the file: everything is as it was. Raises StateError."""
        self._file.delete()
        self._on_disk = None

    def save_settings(self, settings: Isolation) -> None:
        """Save which layers are to be on."""
        self.saved = msgspec.structs.replace(self.saved, settings=settings)
        self._save()

    def save_groups(self, universe: CpuSet, groups: dict[str, CpuSet | None]) -> None:
        """Save the CPUs of kubepods, and those configured for each cgroup below; with neither, cpusets of pods are restored."""
        self._save(universe=universe, groups=groups)

    def save_partitioned(self, *, partitioned: bool) -> None:
        """Save whether there may be partitions that cmk made."""
        self._save(partitioned=partitioned)

    def save_moved(self, threads: list[Thread]) -> None:
        """Save the threads whose masks the kernel changed when a partition began."""
        self.saved = msgspec.structs.replace(self.saved, moved=threads)
        self._save()

    def forget_moved(self, remaining: list[Thread]) -> None:
        """Forget threads that have their masks back, all but ``remaining``, even if that cannot be saved: they are not restored twice."""
        self.saved = msgspec.structs.replace(self.saved, moved=remaining)
        self._save()

    def save_slices(self, slices: dict[str, CpuSet | None]) -> None:
        """Save the CPUs configured for cgroups beside kubepods."""
        self._save(slices=slices)

    def save_irqs(self, irqs: dict[int, CpuSet], default: CpuSet) -> None:
        """Save affinities of interrupts, and that of new ones."""
        self._save(irqs=irqs, default_irq=default)

    def save_threads(self, threads: list[Thread]) -> None:
        """Save the masks of threads of host processes."""
        self._save(threads=threads)

    def save_closed(self, closed: CpuSet) -> None:
        """Save the CPUs that all layers keep others off now."""
        self._save(closed=closed)

    def _save(self, **changes: object) -> None:
        saved = msgspec.structs.replace(self.saved, **changes)
        if saved != self._on_disk:
            self._file.write(saved)
        self.saved = self._on_disk = saved
