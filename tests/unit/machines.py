"""Topologies for tests, made from a few numbers."""

from cmk.model.topology import Core, Topology


def machine(sockets: int = 1, cores: int = 8, threads: int = 2, isolated: set[int] | None = None) -> Topology:
    """Linux numbering: first threads of all cores of all sockets, then second threads."""
    total = sockets * cores
    isolated = isolated or set()
    made = []
    for number in range(total):
        cpus = frozenset(number + thread * total for thread in range(threads))
        made.append(Core(number, number // cores, cpus, cpus & isolated))
    return Topology(tuple(made), ("cmdline",) if isolated else ())
