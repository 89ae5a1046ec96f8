"""Which CPUs of a node are taken and which are free while a layout is being made."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import zip_longest

from cmk.model import cpuset
from cmk.model.config import PoolConfig
from cmk.model.cpuset import CpuSet
from cmk.model.errors import CmkError
from cmk.model.topology import Core, Topology

# Words of the cpufreq driver, from the cores that SST-CP serves first to those it serves last.
_ENERGY = ("performance", "balance_performance", "default", "balance_power", "power")


class LayoutError(CmkError):
    """The request does not fit the machine; the text says what was asked, what there is and what would fit."""


class Cores:
    """Cores of one node being dealt out. ``taken`` tells every pool's CPUs, ``left`` those of nobody."""

    def __init__(self, topology: Topology, reserved: CpuSet) -> None:
        self.topology = topology
        self.left: CpuSet = topology.cpus - reserved
        self.taken: dict[str, CpuSet] = {}
        self.notes: list[str] = []
        self._reserved = reserved
        self._slowest = min((core.base_frequency for core in topology.cores if core.base_frequency), default=0)

    def free(self, isolated: bool | None = None) -> list[Core]:
        """Cores with all their CPUs free: isolated ones, others, or both (None)."""
        return [core for core in self.topology.cores if core.cpus <= self.left and isolated in (None, core.isolated)]

    def scraps(self) -> CpuSet:
        """Free CPUs of cores that are neither isolated nor wholly free."""
        return frozenset().union(
            *(core.cpus & self.left for core in self.topology.cores if not core.isolated)
        ) - frozenset().union(*(core.cpus for core in self.free(isolated=False)))

    def take_named(self, pool: str, ids: frozenset[int], *, whole: bool) -> None:
        """Take cores by number; raises LayoutError when one does not exist or is not free."""
        by_id = {core.id: core for core in self.topology.cores}
        if missing := ids - by_id.keys():
            raise LayoutError(
                f"pool {pool} asks for cores {cpuset.kernel_list(missing)}, which do not exist; this node has cores "
                f"{cpuset.kernel_list(by_id)} (lscpu -p; not to be confused with CPUs)"
            )
        self.take_cpus(pool, frozenset().union(*(by_id[number].cpus for number in ids)), whole=whole)

    def take_cpus(self, pool: str, cpus: CpuSet, *, whole: bool) -> None:
        """Take logical CPUs; ``whole`` refuses to split cores. Raises LayoutError."""
        if missing := cpus - self.topology.cpus:
            raise LayoutError(
                f"pool {pool} asks for CPUs {cpuset.kernel_list(missing)}, which are not online; this node has "
                f"{cpuset.kernel_list(self.topology.cpus)}"
            )
        if reserved := cpus & self._reserved:
            raise LayoutError(f"pool {pool} asks for CPUs {cpuset.kernel_list(reserved)}, which are reserved; name others")
        for other, theirs in self.taken.items():
            if both := theirs & cpus:
                raise LayoutError(
                    f"pool {pool} asks for CPUs {cpuset.kernel_list(both)}, which pool {other} has already; name others for one of them"
                )
        if whole:
            for core in self.topology.cores:
                if core.cpus & cpus and not core.cpus <= cpus:
                    raise LayoutError(
                        f"pool {pool} asks for CPUs {cpuset.kernel_list(core.cpus & cpus)} of core {core.id} alone, whose CPUs are "
                        f"{cpuset.kernel_list(core.cpus)}: an exclusive pool takes whole cores"
                    )
        self._book(pool, cpus)

    def take(self, pool: str, count: int, asked: PoolConfig, *, isolated: bool | None, socket: str) -> None:
        """Take a number of free cores, on one socket or ("") on any; raises LayoutError when that socket has not so many."""
        ordered = [core for core in self._dealt(asked, isolated) if core.cpus <= self.left]
        if socket:
            ordered = [core for core in ordered if str(core.socket) == socket]
            if count > len(ordered):
                there = ", ".join(str(number) for number in self.topology.sockets)
                kind = "isolated " if isolated else ""
                raise LayoutError(
                    f"pool {pool} asks for {count} {kind}cores on socket {socket}, which has {len(ordered)} free; sockets are {there}"
                )
        if asked.prefer:
            ordered = self._preferred(pool, count, ordered, asked.prefer)
        self._book(pool, frozenset().union(*(core.cpus for core in ordered[:count])))

    def _dealt(self, asked: PoolConfig, isolated: bool | None) -> list[Core]:
        """Free and taken cores in the order in which a pool goes through them: in CMK, what others have changes no core's turn.

        CMK knew of nothing reserved: such cores have no turn, or the first pool to spread would not where they fill a socket.
        """
        cores = [core for core in self.topology.cores if isolated in (None, core.isolated) and not core.cpus & self._reserved]
        if isolated and asked.exclusive and asked.prefer == "sst-bf":  # here CMK dealt out distinguished cores by themselves
            classes = [[core for core in cores if self._is_fast(core) is fast] for fast in (True, False)]
            return [core for each in classes for core in _order(each, asked.mode)]
        return _order(cores, asked.mode)

    def _is_fast(self, core: Core) -> bool:
        return core.base_frequency > self._slowest

    def _preferred(self, pool: str, count: int, cores: list[Core], how: str) -> list[Core]:
        """Distinguished cores first, otherwise in the order given (a stable sort)."""
        if how == "sst-bf":
            ordered = sorted(cores, key=lambda core: not self._is_fast(core))
            distinguished = sum(map(self._is_fast, cores))
            what = "a higher base frequency than the others"
        else:
            words = {core.energy_preference for core in self.topology.cores}
            ordered = sorted(cores, key=_energy_rank)
            distinguished = sum(core.energy_preference == ordered[0].energy_preference for core in cores) if len(words) > 1 else 0
            what = "an energy preference of their own"
        if distinguished < count:
            self.notes.append(f"pool {pool} prefers {how} for {count} cores, but {distinguished} free cores have {what}")
        return ordered

    def _book(self, pool: str, cpus: Iterable[int]) -> None:
        self.taken[pool] = self.taken.get(pool, frozenset()) | frozenset(cpus)
        self.left -= self.taken[pool]


def _energy_rank(core: Core) -> int:
    word = core.energy_preference
    return _ENERGY.index(word) if word in _ENERGY else len(_ENERGY)


def _order(cores: Iterable[Core], mode: str) -> list[Core]:
    by_socket: dict[int, list[Core]] = {}
    for core in sorted(cores, key=lambda core: (core.socket, core.id)):
        by_socket.setdefault(core.socket, []).append(core)
    if mode == "spread":
        return [core for turn in zip_longest(*by_socket.values()) for core in turn if core is not None]
    return [core for cores in by_socket.values() for core in cores]
