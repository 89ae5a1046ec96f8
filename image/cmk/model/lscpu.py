"""The topology of another machine, read from the output of ``lscpu -p`` on it."""

from __future__ import annotations

from cmk.model.cpuset import CpuSet
from cmk.model.errors import CmkError
from cmk.model.topology import Core, Topology


class LscpuError(CmkError):
    """Text that is not the output of ``lscpu -p``; the text of the error names the line."""


def parse(text: str, isolated: CpuSet = frozenset()) -> Topology:
    """Read the columns CPU, Core and Socket, in any order. ``isolated`` are the CPUs of isolcpus, which lscpu does not print.

    Raises LscpuError.
    """
    columns = ["cpu", "core", "socket"]
    members: dict[int, set[int]] = {}
    sockets: dict[int, int] = {}
    for number, line in enumerate(text.splitlines(), start=1):
        words = [word.strip() for word in line.lstrip("# ").split(",")]
        if line.startswith("#"):
            names = [word.lower() for word in words]
            columns = names if {"cpu", "core", "socket"} <= set(names) else columns
            continue
        if not line.strip():
            continue
        try:
            cpu, core, socket = (int(words[columns.index(name)] or 0) for name in ("cpu", "core", "socket"))
        except (ValueError, IndexError) as error:
            raise LscpuError(f"line {number} is not a line of lscpu -p=CPU,CORE,SOCKET: {line[:60]}") from error
        members.setdefault(core, set()).add(cpu)
        sockets[core] = socket
    if not members:
        raise LscpuError("the text lists no CPU; use the output of lscpu -p=CPU,CORE,SOCKET")
    cores = tuple(
        Core(core, sockets[core], frozenset(cpus), frozenset(cpus) & isolated) for core, cpus in sorted(members.items())
    )
    return Topology(cores, ("cmdline",) if isolated else ())
