"""The topology of this machine from sysfs: online CPUs, their cores and sockets, and which are isolated.

Sources: Documentation/ABI/stable/sysfs-devices-system-cpu. Cores and sockets are numbered by first appearance, as ``lscpu -p`` does.
"""

from __future__ import annotations

import contextlib
import re
from pathlib import Path

from cmk.model import cpuset
from cmk.model.cpuset import CpuSet
from cmk.model.errors import CmkError
from cmk.model.topology import Core, Topology


class TopologyError(CmkError):
    """sysfs or the kernel command line lacks data of the topology or cannot be read; the text names the file."""


def read_topology(sys_root: Path, cmdline: Path) -> Topology:
    """Read ``<sys_root>/devices/system/cpu`` and ``cmdline`` (a file like /proc/cmdline); raises TopologyError."""
    base = sys_root / "devices/system/cpu"
    online = _list(base / "online")
    if not online:
        raise TopologyError(f"{base / 'online'} names no CPU")
    last_cpu = max(online)
    # sysfs shows only isolation from scheduler domains, the command line also isolcpus=managed_irq,2-5.
    from_sysfs = _list(base / "isolated") if (base / "isolated").exists() else frozenset()
    from_cmdline = _parameter(cmdline, "isolcpus", last_cpu)
    isolated = from_sysfs | from_cmdline

    cores: dict[CpuSet, int] = {}
    sockets: dict[CpuSet, int] = {}
    for cpu in sorted(online):
        threads = _siblings(base, cpu, ("core_cpus_list", "thread_siblings_list"), frozenset({cpu})) & online
        package = _siblings(base, cpu, ("package_cpus_list", "core_siblings_list"), online) & online
        cores.setdefault(threads | {cpu}, sockets.setdefault(package | {cpu}, len(sockets)))
    return Topology(
        cores=tuple(
            Core(number, socket, cpus, cpus & isolated, *_frequency(base, min(cpus)))
            for number, (cpus, socket) in enumerate(cores.items())
        ),
        isolated_from=tuple(name for name, cpus in (("sysfs", from_sysfs), ("cmdline", from_cmdline)) if cpus),
        unbalanced=from_sysfs & online,
        nohz_full=_parameter(cmdline, "nohz_full", last_cpu) & online,
    )


def _parameter(cmdline: Path, name: str, last_cpu: int) -> CpuSet:
    """CPUs of a kernel parameter; the last occurrence counts, as in the kernel."""
    cpus: CpuSet = frozenset()
    for word in _read(cmdline).split():
        if word.startswith(f"{name}="):
            try:
                cpus = cpuset.parse_isolcpus(word.removeprefix(f"{name}="), last_cpu)
            except cpuset.CpuSetError as error:
                raise TopologyError(f"{cmdline}: {word}: {error}") from error
    return cpus


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
