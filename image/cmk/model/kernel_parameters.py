"""What the kernel makes of ``isolcpus=`` and ``nohz_full=`` on its command line: a hint where sysfs does not tell, and a reason to warn.

The kernel refuses a list that it cannot read and boots all the same; so nothing here raises. Sources: kernel/params.c (words and quotes),
kernel/sched/isolation.c (flags; the first list for a flag counts), lib/bitmap (lists).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

import msgspec

from cmk.model import cpuset
from cmk.model.cpuset import CpuSet, CpuSetError

DOMAIN, MANAGED_IRQ, NOHZ = "domain", "managed_irq", "nohz"
FLAGS = frozenset({DOMAIN, MANAGED_IRQ, NOHZ})
NOTHING: CpuSet = frozenset()
# Without its quotes; one that opens and does not close ends with the line.
_WORD = re.compile(r'(?:"[^"]*(?:"|\Z)|[^\s"])+')
_LONGEST_SHOWN = 60  # characters


class Machine(msgspec.Struct, frozen=True):
    """``last``: the highest CPU number that the kernel has room for. ``present``: CPUs that are plugged in."""

    last: int
    present: CpuSet


class AskedIsolation(msgspec.Struct, frozen=True):
    """CPUs by the flag of ``isolcpus=``, those of ``nohz_full=``, and what the kernel does not do as it is written."""

    by_flag: dict[str, CpuSet]
    nohz_full: CpuSet
    warnings: tuple[str, ...] = ()


def read(line: str, machine: Machine) -> AskedIsolation:
    """What the kernel makes of a command line on a machine."""
    by_flag: dict[str, CpuSet] = {}
    warnings: list[str] = []
    for value in _values(line, "isolcpus"):
        try:
            flags, cpus = parse_isolcpus(value, machine)
            if any(by_flag.get(flag, cpus) != cpus for flag in flags):
                raise CpuSetError("the kernel takes the first list for each flag")
        except CpuSetError as error:
            warnings.append(f"{_shown('isolcpus', value)} is ignored by the kernel: {error}")
            continue
        by_flag = {**dict.fromkeys(flags, cpus), **by_flag} if cpus else by_flag
    nohz_full = NOTHING
    for value in _values(line, "nohz_full"):
        try:
            cpus = _list(value, machine)
        except CpuSetError as error:
            warnings.append(f"{_shown('nohz_full', value)} is ignored by the kernel: {error}")
            continue
        nohz_full = nohz_full or cpus
    return AskedIsolation(by_flag, nohz_full, tuple(warnings))


def parse_isolcpus(value: str, machine: Machine) -> tuple[frozenset[str], CpuSet]:
    """Flags and CPUs of one value of ``isolcpus=``, as in ``managed_irq,domain,2-5``; raises CpuSetError if the kernel refuses it."""
    flags = set()
    rest = value
    while rest[:1].isascii() and rest[:1].isalpha():
        flag, _, rest = rest.partition(",")
        if flag in FLAGS:
            flags.add(flag)
        elif not re.fullmatch("[A-Za-z_]+", flag):
            raise CpuSetError(f"{flag[:_LONGEST_SHOWN]!r} is no flag and no CPU list")
    return frozenset(flags or {DOMAIN}), _list(rest, machine)


def _list(text: str, machine: Machine) -> CpuSet:
    """A list of CPUs. The boot CPU is taken out where it would leave no other one to the kernel's own work."""
    items = [re.sub("^all", "0-N", item, flags=re.IGNORECASE) for item in re.split(r"[,\s]+", text) if item]
    cpus = cpuset.parse(",".join(items), machine.last)
    if beyond := cpus - frozenset(range(machine.last + 1)):
        raise CpuSetError(f"CPU {min(beyond)} is beyond the last one, {machine.last}")
    return cpus if machine.present - cpus else cpus - {min(machine.present)}


def _values(line: str, name: str) -> Iterator[str]:
    """Values of a parameter, in their order. What follows ``--`` is for init."""
    for word in _words(line):
        if word == "--":
            return
        key, equals, value = word.partition("=")
        if equals and key.replace("-", "_") == name:
            yield value


def _words(line: str) -> Iterable[str]:
    """Words without the quotes around them or around their values. The kernel keeps quotes anywhere else."""
    for match in _WORD.finditer(line):
        word = match[0]
        if word.startswith('"'):
            word = word[1:].removesuffix('"')
        key, equals, value = word.partition("=")
        if equals and value.startswith('"'):
            value = value[1:].removesuffix('"')
        yield f"{key}{equals}{value}"


def _shown(name: str, value: str) -> str:
    return ascii(f"{name}={value}"[:_LONGEST_SHOWN])[1:-1]
