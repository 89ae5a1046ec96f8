"""The topology of this machine from sysfs: online CPUs, their cores and sockets, and which are isolated.

Sources: Documentation/ABI/stable/sysfs-devices-system-cpu. Cores and sockets are numbered by first appearance, as ``lscpu -p`` does.
"""

from __future__ import annotations

import contextlib
import re
from pathlib import Path
from typing import NamedTuple

from cmk.model import cpuset, kernel_parameters
from cmk.model.cpuset import CpuSet
from cmk.model.errors import CmkError
from cmk.model.kernel_parameters import DOMAIN, MANAGED_IRQ, NOTHING, Machine
from cmk.model.topology import Core, Topology


class TopologyError(CmkError):
    """sysfs lacks data of the topology, or it or the kernel command line cannot be read; the text names the file."""


def read_topology(sys_root: Path, cmdline: Path) -> Topology:
    """Read ``<sys_root>/devices/system/cpu`` and ``cmdline`` (a file like /proc/cmdline); raises TopologyError."""
    base = sys_root / "devices/system/cpu"
    online = _list(base / "online")
    if not online:
        raise TopologyError(f"{base / 'online'} names no CPU")
    isolation = _isolation(base, cmdline, online)

    cores: dict[CpuSet, int] = {}
    sockets: dict[CpuSet, int] = {}
    for cpu in sorted(online):
        threads = _siblings(base, cpu, ("core_cpus_list", "thread_siblings_list"), frozenset({cpu})) & online
        package = _siblings(base, cpu, ("package_cpus_list", "core_siblings_list"), online) & online
        cores.setdefault(threads | {cpu}, sockets.setdefault(package | {cpu}, len(sockets)))
    return Topology(
        cores=tuple(
            Core(number, socket, cpus, cpus & (isolation.domain | isolation.others), *_frequency(base, min(cpus)))
            for number, (cpus, socket) in enumerate(cores.items())
        ),
        isolated_from=isolation.sources,
        unbalanced=isolation.domain & online,
        nohz_full=isolation.nohz_full & online,
        warnings=isolation.warnings,
    )


class _Isolation(NamedTuple):
    domain: CpuSet
    others: CpuSet
    sources: tuple[str, ...]
    nohz_full: CpuSet
    warnings: tuple[str, ...]


def _isolation(base: Path, cmdline: Path, online: CpuSet) -> _Isolation:
    """What the kernel isolates. sysfs says what it does; the command line says what sysfs does not: ``isolcpus=managed_irq,2-5``, or all of
    it where a file does not exist.
    """
    possible = _list_if_there(base / "possible") or online
    machine = Machine(max(possible), _list_if_there(base / "present") or online)
    asked = kernel_parameters.read(_read(cmdline), machine)
    domain = asked.by_flag.get(DOMAIN, NOTHING)
    irqs = asked.by_flag.get(MANAGED_IRQ, NOTHING)
    others = irqs if irqs != domain else NOTHING
    warnings = list(asked.warnings)
    from_sysfs = _list_if_there(base / "isolated")
    if from_sysfs is not None and (left := domain - from_sysfs):
        text = cpuset.kernel_list(left)
        warnings.append(f"isolcpus= names CPUs {text}, which the kernel does not isolate: see {base / 'isolated'}")
    nohz_full = _list_if_there(base / "nohz_full")
    does = domain if from_sysfs is None else from_sysfs
    sources = (("sysfs", from_sysfs), ("cmdline", domain & does | others))
    return _Isolation(
        does,
        others,
        tuple(name for name, cpus in sources if cpus),
        asked.nohz_full if nohz_full is None else nohz_full,
        tuple(warnings),
    )


def _frequency(base: Path, cpu: int) -> tuple[int, str]:
    """Base frequency (kHz) and energy preference of a core's first CPU; 0 and "" if the driver has none."""
    directory = base / f"cpu{cpu}/cpufreq"
    frequency = preference = ""
    # Some drivers have files that cannot be read (EBUSY, EIO): the values are unknown then.
    with contextlib.suppress(OSError):
        frequency = (directory / "base_frequency").read_text(errors="replace").strip()
    with contextlib.suppress(OSError):
        preference = (directory / "energy_performance_preference").read_text(errors="replace").strip()
    return int(frequency) if re.fullmatch("[0-9]{1,12}", frequency) else 0, preference


def _siblings(base: Path, cpu: int, names: tuple[str, ...], missing: CpuSet) -> CpuSet:
    """The CPUs in the first of the files that exists: kernels before 5.0 have only the older name, some virtual machines neither."""
    for name in names:
        path = base / f"cpu{cpu}/topology/{name}"
        if path.exists():
            return _list(path)
    return missing


def _list_if_there(path: Path) -> CpuSet | None:
    """The CPUs of a file that not all kernels have. Some say ``(null)`` for none."""
    if not path.exists():
        return None
    return NOTHING if _read(path).strip() == "(null)" else _list(path)


def _list(path: Path) -> CpuSet:
    try:
        return cpuset.parse(_read(path))
    except cpuset.CpuSetError as error:
        raise TopologyError(f"{path}: {error}") from error


def _read(path: Path) -> str:
    try:
        return path.read_text(errors="replace")
    except OSError as error:
        raise TopologyError(f"cannot read {path}: {error.strerror}") from error
