"""What holds of every layout, whatever the machine and the request."""

from itertools import combinations

from hypothesis import given
from hypothesis import strategies as st

from cmk.model.config import PoolConfig
from cmk.model.layout import LayoutError, compute
from cmk.model.topology import Core, Topology

MODES = st.sampled_from(["packed", "spread"])


@st.composite
def machines(draw: st.DrawFn) -> Topology:
    sockets = draw(st.integers(1, 4))
    cores = draw(st.integers(1, 12))
    threads = draw(st.integers(1, 4))
    ids = draw(st.permutations(range(cores * threads * 2)))
    made = []
    for number in range(cores):
        cpus = frozenset(ids[number * threads : (number + 1) * threads])
        isolated = draw(st.sampled_from([frozenset(), cpus, frozenset(list(cpus)[:1])]))
        made.append(Core(number, draw(st.integers(0, sockets - 1)), cpus, isolated))
    return Topology(tuple(made))


@st.composite
def requests(draw: st.DrawFn) -> dict[str, PoolConfig]:
    return {
        "exclusive": PoolConfig(draw(st.integers(0, 6)), exclusive=True, mode=draw(MODES)),
        "shared": PoolConfig(draw(st.integers(0, 4)), mode=draw(MODES)),
        "infra": PoolConfig("rest"),
    }


@given(machines(), requests())
def test_pools_are_disjoint_whole_and_as_large_as_asked(topology: Topology, asked: dict[str, PoolConfig]) -> None:
    try:
        layout = compute(topology, asked)
    except LayoutError:
        isolated = [core for core in topology.cores if core.isolated]
        need = int(asked["exclusive"].cores) + int(asked["shared"].cores)
        there = len(isolated) if isolated else len(topology.cores) - 1
        assert need > there or len(isolated) == len(topology.cores)
        return
    lists = [item.cpus for pool in layout.pools.values() for item in pool.lists]
    assert all(not a & b for a, b in combinations(lists, 2))
    by_cpus = {core.cpus for core in topology.cores}
    for name, pool in layout.pools.items():
        if pool.exclusive:
            assert all(item.cpus in by_cpus for item in pool.lists)
            assert len(pool.lists) == asked[name].cores
        else:
            assert all(core.cpus <= pool.cpus or not core.cpus & pool.cpus for core in topology.cores)
            assert len({item.socket for item in pool.lists}) == len(pool.lists)
    assert layout.pools["infra"].cpus


@given(machines(), requests(), st.randoms(use_true_random=False))
def test_the_order_of_the_request_does_not_matter(topology: Topology, asked: dict[str, PoolConfig], random: object) -> None:
    names = list(asked)
    random.shuffle(names)  # type: ignore[attr-defined]
    try:
        expected = compute(topology, asked)
    except LayoutError:
        return
    assert compute(topology, {name: asked[name] for name in names}) == expected
