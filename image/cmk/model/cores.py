"""The assignment of a node's cores to pools while a layout is computed: which CPUs are assigned and which are free."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import zip_longest

from cmk.model import cpuset
from cmk.model.config import PoolConfig
from cmk.model.cpuset import CpuSet
from cmk.model.errors import CmkError
from cmk.model.topology import Core, Topology

# Energy preferences of the cpufreq driver, from the cores that SST-CP favours most to those that it favours least.
_ENERGY = ("performance", "balance_performance", "default", "balance_power", "power")


class LayoutError(CmkError):
    """Pools that do not fit the machine; the text says what was requested, what the machine has and what would fit."""


class CoreAssignment:
    """Assigns a node's CPUs to pools. ``assigned`` maps each pool to its CPUs, ``free_cpus`` are in no pool and not reserved."""

    def __init__(self, topology: Topology, reserved: CpuSet) -> None:
        self.topology = topology
        self.free_cpus: CpuSet = topology.cpus - reserved
        self.assigned: dict[str, CpuSet] = {}
        self.warnings: list[str] = []
        self._reserved = reserved
        self._slowest = min((core.base_frequency for core in topology.cores if core.base_frequency), default=0)

    def free_cores(self, isolated: bool | None = None) -> list[Core]:
        """Cores whose CPUs are all free: isolated cores, others, or both (None)."""
        return [core for core in self.topology.cores if core.cpus <= self.free_cpus and isolated in (None, core.isolated)]

    def free_cpus_of_partial_cores(self) -> CpuSet:
        """Free CPUs of non-isolated cores some of whose CPUs are not free."""
        return frozenset().union(
            *(core.cpus & self.free_cpus for core in self.topology.cores if not core.isolated)
        ) - frozenset().union(*(core.cpus for core in self.free_cores(isolated=False)))

    def assign_cores(self, pool: str, ids: frozenset[int], *, whole: bool) -> None:
        """Assign cores by number; raises LayoutError when one does not exist or is not free."""
        by_id = {core.id: core for core in self.topology.cores}
        if missing := ids - by_id.keys():
            raise LayoutError(
                f"pool {pool} asks for cores {cpuset.kernel_list(missing)}, which do not exist; this node has cores "
                f"{cpuset.kernel_list(by_id)} (lscpu -p; not to be confused with CPUs)"
            )
        self.assign_cpus(pool, frozenset().union(*(by_id[number].cpus for number in ids)), whole=whole)

    def assign_cpus(self, pool: str, cpus: CpuSet, *, whole: bool) -> None:
        """Assign logical CPUs. Raises LayoutError when one is not free or, if ``whole``, when a core would be split."""
        if missing := cpus - self.topology.cpus:
            raise LayoutError(
                f"pool {pool} asks for CPUs {cpuset.kernel_list(missing)}, which are not online; this node has "
                f"{cpuset.kernel_list(self.topology.cpus)}"
            )
        if reserved := cpus & self._reserved:
            raise LayoutError(f"pool {pool} asks for CPUs {cpuset.kernel_list(reserved)}, which are reserved; name others")
        for other, theirs in self.assigned.items():
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
        self._assign(pool, cpus)

    def assign_number(self, pool: str, count: int, request: PoolConfig, *, isolated: bool | None, socket: str) -> None:
        """Assign ``count`` free cores, on one socket or ("") on any; raises LayoutError when that socket has fewer."""
        ordered = [core for core in self._candidates(request, isolated) if core.cpus <= self.free_cpus]
        if socket:
            ordered = [core for core in ordered if str(core.socket) == socket]
            if count > len(ordered):
                sockets = ", ".join(str(number) for number in self.topology.sockets)
                kind = "isolated " if isolated else ""
                raise LayoutError(
                    f"pool {pool} asks for {count} {kind}cores on socket {socket}, which has {len(ordered)} free; sockets are {sockets}"
                )
        if request.prefer:
            ordered = self._preferred(pool, count, ordered, request.prefer)
        self._assign(pool, frozenset().union(*(core.cpus for core in ordered[:count])))

    def _candidates(self, request: PoolConfig, isolated: bool | None) -> list[Core]:
        """Free and assigned cores in the order in which a pool gets them: as in CMK, cores of other pools keep their place in that order.

        Reserved cores, which CMK did not have, are left out: where they fill a socket, the first pool to spread would not be spread.
        """
        cores = [core for core in self.topology.cores if isolated in (None, core.isolated) and not core.cpus & self._reserved]
        if isolated and request.exclusive and request.prefer == "sst-bf":  # CMK ordered fast cores and others separately here
            classes = [[core for core in cores if self._is_fast(core) is fast] for fast in (True, False)]
            return [core for each in classes for core in _ordered(each, request.mode)]
        return _ordered(cores, request.mode)

    def _is_fast(self, core: Core) -> bool:
        return core.base_frequency > self._slowest

    def _preferred(self, pool: str, count: int, cores: list[Core], how: str) -> list[Core]:
        """Cores that SST-BF or SST-CP distinguishes first, otherwise in the order given (a stable sort)."""
        if how == "sst-bf":
            ordered = sorted(cores, key=lambda core: not self._is_fast(core))
            distinguished = sum(map(self._is_fast, cores))
            distinction = "a higher base frequency than the others"
        else:
            words = {core.energy_preference for core in self.topology.cores}
            ordered = sorted(cores, key=_energy_rank)
            distinguished = sum(core.energy_preference == ordered[0].energy_preference for core in cores) if len(words) > 1 else 0
            distinction = "an energy preference of their own"
        if distinguished < count:
            self.warnings.append(
                f"pool {pool} prefers {how} for {count} cores, but {distinguished} free cores have {distinction}"
            )
        return ordered

    def _assign(self, pool: str, cpus: Iterable[int]) -> None:
        self.assigned[pool] = self.assigned.get(pool, frozenset()) | frozenset(cpus)
        self.free_cpus -= self.assigned[pool]


def _energy_rank(core: Core) -> int:
    word = core.energy_preference
    return _ENERGY.index(word) if word in _ENERGY else len(_ENERGY)


def _ordered(cores: Iterable[Core], mode: str) -> list[Core]:
    by_socket: dict[int, list[Core]] = {}
    for core in sorted(cores, key=lambda core: (core.socket, core.id)):
        by_socket.setdefault(core.socket, []).append(core)
    if mode == "spread":
        return [core for round_ in zip_longest(*by_socket.values()) for core in round_ if core is not None]
    return [core for cores in by_socket.values() for core in cores]
