"""How a node was before cmk isolated anything: what every layer is undone from."""

from __future__ import annotations

import msgspec

from cmk.model.cpuset import CpuSet
from cmk.model.isolation_config import Isolation, Thread


class Saved(msgspec.Struct, frozen=True):
    """How everything was before us, written before the first change and void after a reboot.

    ``groups`` and ``slices``: sets of cgroups (None: nothing configured) below kubepods and beside it; ``universe``: CPUs kubepods could
    get; ``partitioned``: whether there may be partitions, which had not been there before, and ``moved`` threads whose masks
    they changed; ``irqs``: affinities by number, and ``default_irq`` that of new ones; ``threads``: of the host's processes;
    ``closed``: the exclusive CPUs that all of these have been kept off, last.
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
