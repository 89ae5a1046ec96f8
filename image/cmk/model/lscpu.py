"""The topology of another machine, read from what ``lscpu`` printed on it: ``-p`` with its columns, or JSON of ``-J -e``.

Cores and sockets are numbered by first appearance, as on the machine itself; the numbers that lscpu prints are those of the hardware with
``-y``, and begin anew on each socket or cluster in some of its versions.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from types import NoneType

from cmk.model.cpuset import MAX_CPU, CpuSet
from cmk.model.errors import CmkError
from cmk.model.kernel_parameters import Machine, parse_isolcpus
from cmk.model.topology import Core, Topology

_NEEDED = ("cpu", "core", "socket")
# A core is told by these that there are; each has its own numbers below the one before.
_PLACES = ("socket", "cluster", "core")
_OFFLINE = frozenset({"n", "no", "false"})
_USE = "use the output of lscpu -p=CPU,CORE,SOCKET"

# Column to text; empty where lscpu knows nothing.
_Row = Mapping[str, str]


class LscpuError(CmkError):
    """Text that is not the output of ``lscpu -p`` or ``lscpu -J -e``; the text of the error names the line or CPU."""


def parse(text: str, isolcpus: str = "") -> Topology:
    """Read the output of ``lscpu -p`` with the columns CPU, Core and Socket, in any order. ``isolcpus`` is the kernel parameter's value,
    which lscpu does not print. CPUs without a core are offline.

    Raises LscpuError, and CpuSetError for isolcpus.
    """
    return _topology(_rows(text), isolcpus)


def parse_json(cpus: object, isolcpus: str = "") -> Topology:
    """The same of the list ``cpus`` that ``lscpu -J -e`` prints."""
    if not isinstance(cpus, list) or not all(isinstance(item, dict) and "cpu" in item for item in cpus):
        raise LscpuError(f"its 'cpus' are no list of CPUs; {_USE}, or of lscpu -J -e")
    rows = []
    for item in cpus:
        if not all(isinstance(value, str | bool | NoneType) or value in range(MAX_CPU) for value in item.values()):
            raise LscpuError(f"its 'cpus' have values that lscpu does not print; {_USE}, or of lscpu -J -e")
        row = {str(name).lower(): "" if value is None else str(value).lower() for name, value in item.items()}
        if missing := [name for name in _NEEDED if name not in row]:
            raise LscpuError(f"CPU {row['cpu'][:20]} has no {missing[0]!r}; {_USE}, or of lscpu -J -e=CPU,CORE,SOCKET")
        rows.append((f"CPU {row['cpu'][:20]}", row))
    return _topology(rows, isolcpus)


def _rows(text: str) -> Iterator[tuple[str, _Row]]:
    columns: list[str] = []
    for number, line in enumerate(text.splitlines(), start=1):
        words = [word.strip().lower() for word in line.lstrip("# ").split(",")]
        if line.startswith("#"):
            if "cpu" in words:
                columns = words
                if missing := [name for name in _NEEDED if name not in columns]:
                    raise LscpuError(f"line {number} has no column {missing[0].capitalize()}; {_USE}")
        elif line.strip():
            names = columns or list(_NEEDED)  # whoever cuts comments off has the columns that this asks for
            if len(words) != len(names):
                raise LscpuError(f"line {number} is not a line of lscpu -p=CPU,CORE,SOCKET: {line[:60]}")
            yield f"line {number}", dict(zip(names, words, strict=True))


def _topology(rows: Iterable[tuple[str, _Row]], isolcpus: str) -> Topology:
    places: dict[int, tuple[int, ...]] = {}
    caches: dict[tuple[int, ...], tuple[str, int]] = {}
    every: set[int] = set()
    for where, row in rows:
        cpu = _number(where, row, "cpu")
        if cpu in every:
            raise LscpuError(f"{where}: CPU {cpu} is listed twice")
        every.add(cpu)
        if not row["core"] or row["core"] == "-" or row.get("online") in _OFFLINE:
            continue
        places[cpu] = tuple(_number(where, row, name) for name in _PLACES if name in row)
        cache, first = caches.setdefault(places[cpu], (_cache(row), cpu))
        if cache != _cache(row):
            text = f"CPUs {first} and {cpu} have the same core, but not the same L1d cache: core numbers begin anew somewhere"
            raise LscpuError(f"{where}: {text}; {_USE},CLUSTER")
    if not places:
        raise LscpuError(f"the text lists no CPU; {_USE}")
    isolated = _isolated(isolcpus, frozenset(every), frozenset(places))
    return Topology(tuple(_cores(places, isolated)), ("cmdline",) if isolated else ())


def _cores(places: Mapping[int, tuple[int, ...]], isolated: CpuSet) -> Iterator[Core]:
    members: dict[tuple[int, ...], set[int]] = {}
    sockets: dict[int, int] = {}
    for cpu, place in sorted(places.items()):
        members.setdefault(place, set()).add(cpu)
        sockets.setdefault(place[0], len(sockets))
    for number, (place, cpus) in enumerate(members.items()):
        yield Core(number, sockets[place[0]], frozenset(cpus), frozenset(cpus) & isolated)


def _isolated(isolcpus: str, every: CpuSet, online: CpuSet) -> CpuSet:
    return parse_isolcpus(isolcpus, Machine(max(every), every))[1] & online if isolcpus else frozenset()


def _cache(row: _Row) -> str:
    """The L1d cache of a CPU, from a column of its own or from L1d:L1i:L2:L3."""
    for name, value in row.items():
        if name.split(":")[0] == "l1d":
            return value.split(":")[0]
    return ""


def _number(where: str, row: _Row, name: str) -> int:
    text = row[name] or "0"  # of sockets there may be none to tell apart
    if not text.isascii() or not text.isdigit() or len(text) > 9:
        raise LscpuError(f"{where}: {name} {text[:20]!r} is no number: this is not the output of lscpu -p=CPU,CORE,SOCKET")
    if name == "cpu" and int(text) > MAX_CPU:
        raise LscpuError(f"{where}: CPU {text} is beyond {MAX_CPU}")
    return int(text)
