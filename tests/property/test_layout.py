"""What holds of every layout, whatever the machine and the request."""

from itertools import combinations
from random import Random

from hypothesis import given, settings
from hypothesis import strategies as st

from cmk.model.config import PoolConfig
from cmk.model.cpuset import CpuSet
from cmk.model.layout import Layout, LayoutError, compute
from cmk.model.topology import Core, Topology

MODES = st.sampled_from(["packed", "spread"])


@st.composite
def machines(draw: st.DrawFn) -> Topology:
    sockets = draw(st.integers(1, 4))
    cores = draw(st.integers(1, 12))
    threads = draw(st.integers(1, 4))
    ids = draw(st.permutations(range(cores * threads * 2)))
    cores_of_machine = []
    for number in range(cores):
        cpus = frozenset(ids[number * threads : (number + 1) * threads])
        isolated = draw(st.sampled_from([frozenset(), cpus, frozenset(list(cpus)[:1])]))
        cores_of_machine.append(Core(number, draw(st.integers(0, sockets - 1)), cpus, isolated, draw(st.sampled_from([0, 1, 2]))))
    return Topology(tuple(cores_of_machine))


def _asked(exclusive: bool) -> st.SearchStrategy[PoolConfig]:
    cores = st.one_of(
        st.integers(-1, 5),
        st.lists(st.integers(0, 11), min_size=1, max_size=3).map(tuple),
        st.dictionaries(st.sampled_from("0123"), st.integers(0, 2), min_size=1),
    )
    prefer = st.sampled_from([None, "sst-bf", "sst-cp"])
    return st.builds(PoolConfig, cores=cores, exclusive=st.just(exclusive), mode=MODES, prefer=prefer)


# Made once: hypothesis looks at every strategy that is new, which takes longer than to draw from it.
EXCLUSIVE = st.dictionaries(st.sampled_from(["exclusive", "gold", "exclusive-non-isolcpus"]), _asked(True), max_size=3)
SHARED = st.dictionaries(st.sampled_from(["shared", "batch"]), _asked(False), max_size=2)
INFRA = st.sampled_from(["rest", 1, 2])


@st.composite
def requests(draw: st.DrawFn) -> dict[str, PoolConfig]:
    return {**draw(EXCLUSIVE), **draw(SHARED), "infra": PoolConfig(draw(INFRA))}


RESERVED = st.frozensets(st.integers(0, 20), max_size=4)


@settings(max_examples=500)
@given(machines(), requests(), RESERVED)
def test_no_cpu_is_in_two_pools_and_no_core_is_split(
    topology: Topology, asked: dict[str, PoolConfig], reserved: frozenset[int]
) -> None:
    try:
        layout = compute(topology, asked, reserved)
    except LayoutError:
        return
    lists = [item.cpus for pool in layout.pools.values() for item in pool.lists]
    assert all(not a & b for a, b in combinations(lists, 2))
    assert all(cpus and not cpus & reserved for cpus in lists)
    by_cpus = {core.cpus for core in topology.cores}
    for pool in layout.pools.values():
        if pool.exclusive:
            assert all(item.cpus in by_cpus for item in pool.lists)
        else:
            assert len({item.socket for item in pool.lists}) == len(pool.lists)
    assert layout.pools["infra"].cpus


@settings(max_examples=500)
@given(machines(), requests(), RESERVED)
def test_every_pool_has_exactly_what_it_asked_for(
    topology: Topology, asked: dict[str, PoolConfig], reserved: frozenset[int]
) -> None:
    try:
        layout = compute(topology, asked, reserved)
    except LayoutError:
        return
    cores = {core.id: core for core in topology.cores}
    for name, pool in asked.items():
        cpus = layout.cpus_of(name)
        whole = [core for core in topology.cores if core.cpus <= cpus]
        if pool.named_cores is not None:
            assert cpus == frozenset().union(*(cores[number].cpus for number in pool.named_cores))
        elif pool.count is not None:
            assert len(whole) == pool.count
            assert sum(len(core.cpus) for core in whole) == len(cpus)
        elif pool.cores == -1:
            _check_remaining(topology, layout, asked, name, reserved)
        if isinstance(pool.cores, dict):
            assert all(sum(str(core.socket) == socket for core in whole) == count for socket, count in pool.cores.items())


def _check_remaining(topology: Topology, layout: Layout, asked: dict[str, PoolConfig], name: str, reserved: CpuSet) -> None:
    """No core of the pool's kind is left over, and infra has no more of them than it must."""
    isolated = any(core.isolated for core in topology.cores)
    used = frozenset().union(*(pool.cpus for pool in layout.pools.values()))
    of_kind = [core for core in topology.cores if not isolated or core.isolated == (name != "exclusive-non-isolcpus")]
    stranded = topology.cpus - used
    assert not any(core.cpus <= stranded and not core.cpus & reserved for core in of_kind)
    if asked["infra"].cores == "rest":
        assert sum(core.cpus <= layout.cpus_of("infra") for core in of_kind) <= 1


@given(machines(), st.integers(0, 3), RESERVED)
def test_the_rest_is_every_cpu_in_no_other_pool(topology: Topology, count: int, reserved: frozenset[int]) -> None:
    asked = {"infra": PoolConfig(count), "gold": PoolConfig(1, exclusive=True), "shared": PoolConfig("rest")}
    try:
        layout = compute(topology, asked, reserved)
    except LayoutError:
        return
    assert frozenset().union(*(pool.cpus for pool in layout.pools.values())) == topology.cpus - reserved


@given(machines(), requests(), RESERVED, st.randoms(use_true_random=False))
def test_no_order_matters(topology: Topology, asked: dict[str, PoolConfig], reserved: frozenset[int], random: Random) -> None:
    names, cores = list(asked), list(topology.cores)
    random.shuffle(names)
    random.shuffle(cores)
    try:
        expected = compute(topology, asked, reserved)
    except LayoutError:
        return
    assert compute(Topology(tuple(cores)), {name: asked[name] for name in names}, reserved) == expected


@given(machines(), st.integers(0, 6), st.integers(0, 4), MODES)
def test_a_request_is_refused_only_when_it_does_not_fit(topology: Topology, exclusive: int, shared: int, mode: str) -> None:
    asked = {
        "exclusive": PoolConfig(exclusive, exclusive=True, mode=mode),  # type: ignore[arg-type]
        "shared": PoolConfig(shared, mode=mode),  # type: ignore[arg-type]
        "infra": PoolConfig("rest"),
    }
    isolated = [core for core in topology.cores if core.isolated]
    available = len(isolated) if isolated else len(topology.cores) - 1
    fits = exclusive + shared <= available and len(isolated) < len(topology.cores)
    try:
        compute(topology, asked)
    except LayoutError:
        assert not fits
    else:
        assert fits
