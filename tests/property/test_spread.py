"""Pools with a number of cores get the very cores that CMK gave them, whatever other pools have: an independent model of its ``init``."""

from __future__ import annotations

from itertools import count

from hypothesis import assume, given, settings
from hypothesis import strategies as st

from cmk.model.config import PoolConfig
from cmk.model.layout import LayoutError, compute
from cmk.model.topology import Core, Topology

MODES = st.sampled_from(["packed", "spread"])
WORDS = st.sampled_from(["performance", "balance_performance", "power"])
TURNS = ("exclusive", "bronze", "gold", "batch", "shared")  # exclusive first, then its kind by name, then shared ones by name


@st.composite
def machines(draw: st.DrawFn) -> Topology:
    """Sockets of uneven sizes, numbered one after the other or in turns; one thread a core, so that CPUs are cores."""
    sizes = draw(st.lists(st.integers(1, 6), min_size=1, max_size=4))
    sockets = [socket for socket, size in enumerate(sizes) for _ in range(size)]
    if draw(st.booleans()):
        sockets = list(draw(st.permutations(sockets)))
    some_isolated = draw(st.booleans())
    differ = draw(st.booleans())
    return Topology(
        tuple(
            Core(
                number,
                socket,
                frozenset({number}),
                frozenset({number}) if some_isolated and draw(st.booleans()) else frozenset(),
                draw(st.sampled_from([21, 28])) if differ else 21,
                draw(WORDS) if differ else "",
            )
            for number, socket in enumerate(sockets)
        )
    )


@st.composite
def requests(draw: st.DrawFn, prefer: st.SearchStrategy[str | None]) -> dict[str, PoolConfig]:
    def pool(cores: object, exclusive: bool) -> PoolConfig:
        return PoolConfig(cores, exclusive=exclusive, mode=draw(MODES), prefer=draw(prefer))  # type: ignore[arg-type]

    asked = {"exclusive": pool(draw(st.integers(0, 5)), True), "shared": pool(draw(st.integers(0, 4)), False)}
    for name in draw(st.sets(st.sampled_from(["bronze", "gold", "batch"]))):
        asked[name] = pool(draw(st.integers(0, 3)), name != "batch")
    if draw(st.booleans()):
        asked["named"] = PoolConfig(cores=(draw(st.integers(0, 5)),))
    return {**asked, "infra": PoolConfig("rest")}


def ordered(cores: list[Core], mode: str) -> list[Core]:
    """``packed``: socket after socket; ``spread``: the first core of each socket, then the second of each, and so on."""
    if mode == "packed":
        return sorted(cores, key=lambda core: (core.socket, core.id))
    rounds = {socket: count() for socket in {core.socket for core in cores}}
    turn = {core.id: next(rounds[core.socket]) for core in sorted(cores, key=lambda core: core.id)}
    return sorted(cores, key=lambda core: (turn[core.id], core.socket))


def cmk(topology: Topology, asked: dict[str, PoolConfig], reserved: frozenset[int]) -> dict[str, frozenset[int]]:
    """Each pool orders all cores, those of other pools included, and takes the first ones that are in no pool.

    All cores are the isolated ones if the machine has any. Reserved CPUs, which CMK did not have, are left out.
    """
    kind = [core for core in topology.cores if core.isolated or not topology.has_isolated]
    kind = [core for core in kind if core.id not in reserved]
    taken = set(asked["named"].named_cores or ()) if "named" in asked else set()
    pools = {}
    for name in TURNS:
        if name not in asked:
            continue
        pool = asked[name]
        order = ordered(kind, pool.mode)
        if pool.prefer == "sst-bf":
            slowest = min(core.base_frequency for core in topology.cores)
            fast = [core for core in order if core.base_frequency > slowest]
            slow = [core for core in order if core.base_frequency == slowest]
            if pool.exclusive and topology.has_isolated:  # CMK ordered fast cores and others separately here
                fast, slow = ordered(fast, pool.mode), ordered(slow, pool.mode)
            order = fast + slow
        elif pool.prefer == "sst-cp":
            words = ["performance", "balance_performance", "power", ""]
            order = [core for word in words for core in order if core.energy_preference == word]
        pools[name] = frozenset([core.id for core in order if core.id not in taken][: pool.count])
        taken |= pools[name]
    return pools


RESERVED = st.frozensets(st.integers(0, 12), max_size=3)


def check(topology: Topology, asked: dict[str, PoolConfig], reserved: frozenset[int]) -> None:
    try:
        layout = compute(topology, asked, reserved)
    except LayoutError:
        assume(False)
    for name, cpus in cmk(topology, asked, reserved).items():
        assert layout.cpus_of(name) == cpus


@settings(max_examples=500)
@given(machines(), requests(st.none()), RESERVED)
def test_a_pool_counts_cores_of_other_pools_in_its_order(
    topology: Topology, asked: dict[str, PoolConfig], reserved: frozenset[int]
) -> None:
    check(topology, asked, reserved)


@settings(max_examples=500)
@given(machines(), requests(st.sampled_from([None, "sst-bf", "sst-cp"])), RESERVED)
def test_distinguished_cores_come_first_in_the_mode_s_order(
    topology: Topology, asked: dict[str, PoolConfig], reserved: frozenset[int]
) -> None:
    check(topology, asked, reserved)
