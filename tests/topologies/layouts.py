"""What each shape's cores are split into: printed to layouts.txt, read by people once and by a test for ever.

After a change that means to move pools: ``scripts/python -m tests.topologies.layouts > tests/topologies/layouts.txt``, and read the diff.
"""

from __future__ import annotations

from collections.abc import Iterator

from cmk.model import cpuset
from cmk.model.config import PoolConfig
from cmk.model.layout import LayoutError, compute
from cmk.model.topology import Core, Topology
from tests.topologies import SHAPES, Shape

_INFRA = PoolConfig("rest")
REQUESTS = {
    "defaults": {"exclusive": PoolConfig(4, exclusive=True), "shared": PoolConfig(1), "infra": _INFRA},
    "spread": {
        "exclusive": PoolConfig(3, exclusive=True, mode="spread"),
        "shared": PoolConfig(2, mode="spread"),
        "infra": _INFRA,
    },
    "mixed": {"exclusive": PoolConfig(3, exclusive=True), "shared": PoolConfig(2, mode="spread"), "infra": _INFRA},
    "remaining": {"exclusive": PoolConfig(-1, exclusive=True), "shared": PoolConfig(1), "infra": _INFRA},
    "sst": {
        "exclusive": PoolConfig(4, exclusive=True, prefer="sst-bf"),
        "gold": PoolConfig(4, exclusive=True, prefer="sst-cp"),
        "infra": _INFRA,
    },
}


def topology_of(shape: Shape) -> Topology:
    """The shape as ``lscpu -p`` numbers it: cores and sockets by first appearance."""
    sets = {text: cpuset.parse(text) for text in shape.cores}
    online = cpuset.parse(shape.online) if shape.online else frozenset().union(*sets.values())
    isolated = cpuset.parse(shape.isolated)
    found = [(sets[text] & online, package, number) for number, (text, package) in enumerate(shape.cores.items())]
    sockets: dict[int, int] = {}
    cores = []
    for cpus, package, number in sorted((core for core in found if core[0]), key=lambda core: min(core[0])):
        socket = sockets.setdefault(package, len(sockets))
        frequency, preference = shape.base_frequency.get(number, 0), shape.energy_preference.get(number, "")
        cores.append(Core(len(cores), socket, cpus, cpus & isolated, frequency, preference))
    return Topology(tuple(cores), ("sysfs",) if isolated else (), unbalanced=isolated)


def lines_of(shape: Shape, topology: Topology) -> Iterator[str]:
    """One line per request: pools with their lists, or why there are none."""
    yield f"# {shape.name} ({shape.origin})"
    for request, pools in REQUESTS.items():
        try:
            layout = compute(topology, pools)
        except LayoutError as error:
            yield f"{request}: refused: {error}"
            continue
        words = [
            f"{name} {len(pool.lists)}x {' '.join(cpuset.kernel_list(item.cpus) for item in pool.lists[:4])}"
            + (" ..." if len(pool.lists) > 4 else "")
            for name, pool in layout.pools.items()
        ]
        yield f"{request}: {'; '.join(words)}"
        yield from (f"    {warning}" for warning in layout.warnings)
    yield ""


if __name__ == "__main__":
    for each in SHAPES:
        print(*lines_of(each, topology_of(each)), sep="\n")
