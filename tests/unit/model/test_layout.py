from pathlib import Path

import pytest
from msgspec import structs

from cmk.model import cpuset
from cmk.model.config import PoolConfig
from cmk.model.layout import Layout, LayoutError, compute
from cmk.model.topology import Core, Topology
from tests.topologies import SHAPES, Shape, layouts
from tests.unit.machines import machine


def pools(exclusive: int = 4, shared: int = 1, mode: str = "packed", shared_mode: str = "packed") -> dict[str, PoolConfig]:
    return {
        "exclusive": PoolConfig(exclusive, exclusive=True, mode=mode),  # type: ignore[arg-type]
        "shared": PoolConfig(shared, mode=shared_mode),  # type: ignore[arg-type]
        "infra": PoolConfig("rest"),
    }


def names(layout: Layout) -> dict[str, list[str]]:
    return {name: [item.name for item in pool.lists] for name, pool in layout.pools.items()}


def test_without_isolated_cores_infra_gets_the_rest() -> None:
    assert names(compute(machine(), pools())) == {
        "exclusive": ["0,8", "1,9", "2,10", "3,11"],
        "shared": ["4,12"],
        "infra": ["5,6,7,13,14,15"],
    }


def test_with_isolated_cores_pools_take_them_and_infra_takes_the_others() -> None:
    topology = machine(isolated={4, 12, 5, 13, 6, 14, 7, 15})
    assert names(compute(topology, pools(exclusive=3))) == {
        "exclusive": ["4,12", "5,13", "6,14"],
        "shared": ["7,15"],
        "infra": ["0,1,2,3,8,9,10,11"],
    }


def test_isolated_cores_that_no_pool_asks_for_are_named() -> None:
    layout = compute(machine(isolated={4, 12, 5, 13, 6, 14, 7, 15}), pools(exclusive=1))
    assert layout.warnings == ("isolated CPUs 6-7,14-15 are in no pool: no pool asks for them",)


def test_a_core_counts_as_isolated_only_when_all_its_threads_are() -> None:
    layout = compute(machine(isolated={4, 12, 5, 13, 6}), pools(exclusive=1))
    assert "6" in names(layout)["infra"][0].split(",")
    assert layout.warnings == ("cores with CPUs 6,14 are only partly isolated and count as not isolated",)


def test_spread_goes_round_the_sockets() -> None:
    layout = compute(machine(sockets=2, cores=4), pools(mode="spread"))
    assert names(layout)["exclusive"] == ["0,8", "1,9", "4,12", "5,13"]


@pytest.mark.parametrize(
    ("mode", "exclusive", "shared", "expected"),
    [
        ("packed", 3, 2, ["4,5,12,13"]),  # in the order 0 4 1 5 2 6 3 7, of which 0 1 2 are assigned already
        ("packed", 3, 3, ["4,5,6,12,13,14"]),
        ("packed", 3, 4, ["3,11", "4,5,6,12,13,14"]),
        ("packed", 5, 2, ["5,6,13,14"]),
        ("spread", 3, 1, ["5,13"]),  # 0 4 1 are assigned already
        ("spread", 3, 2, ["2,10", "5,13"]),
    ],
)
def test_spread_counts_cores_of_other_pools_in_its_order(mode: str, exclusive: int, shared: int, expected: list[str]) -> None:
    layout = compute(machine(sockets=2, cores=4), pools(exclusive, shared, mode, "spread"))
    assert names(layout)["shared"] == expected


def test_spread_leaves_out_reserved_cpus() -> None:
    layout = compute(machine(sockets=2, cores=4), pools(2, 0, "spread"), frozenset({0, 1}))
    assert names(layout)["exclusive"] == ["2,10", "4,12"]


def test_packed_fills_one_socket_first() -> None:
    layout = compute(machine(sockets=2, cores=4), pools())
    assert [item.socket for item in layout.pools["exclusive"].lists] == [0, 0, 0, 0]


def test_a_shared_pool_has_one_list_per_socket() -> None:
    layout = compute(machine(sockets=2, cores=4), pools(exclusive=2, shared=4, shared_mode="spread"))
    assert names(layout)["shared"] == ["2,10", "4,5,6,12,13,14"]
    assert [item.socket for item in layout.pools["shared"].lists] == [0, 1]


def test_a_pool_of_no_cores_does_not_exist() -> None:
    assert set(compute(machine(), pools(exclusive=0)).pools) == {"shared", "infra"}


def test_lists_are_ordered_by_number_not_by_text() -> None:
    layout = compute(machine(cores=16), pools(exclusive=12))
    assert [item.name for item in layout.pools["exclusive"].lists][9:] == ["9,25", "10,26", "11,27"]


@pytest.mark.parametrize(
    ("topology", "asked", "complaint"),
    [
        (machine(cores=4), pools(), r"needs 6 cores \(exclusive 4 \+ shared 1 \+ infra 1\), has 4; at most 3"),
        (machine(cores=6, isolated={4, 10, 5, 11}), pools(), r"needs 5 isolated cores \(exclusive 4 \+ shared 1\), has 2"),
        (machine(cores=2, isolated={0, 1, 2, 3}), pools(1, 1), "every core is isolated and none is left for infra"),
    ],
)
def test_an_impossible_request_says_what_was_requested_and_what_the_machine_has(
    topology: object, asked: dict[str, PoolConfig], complaint: str
) -> None:
    with pytest.raises(LayoutError, match=complaint):
        compute(topology, asked)  # type: ignore[arg-type]


def layout_of(topology: Topology, reserved: str = "", **asked: PoolConfig) -> dict[str, list[str]]:
    return names(compute(topology, {"infra": PoolConfig("rest"), **asked}, cpuset.parse(reserved)))


def exclusive(cores: object = None, **more: object) -> PoolConfig:
    return PoolConfig(cores, exclusive=True, **more)  # type: ignore[arg-type]


ISOLATED = {4, 12, 5, 13, 6, 14, 7, 15}


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        ({"exclusive": exclusive(-1), "shared": PoolConfig(1)}, {"exclusive": 6, "shared": 1}),
        ({"exclusive": exclusive(-1), "infra": PoolConfig(3)}, {"exclusive": 5}),
        ({"exclusive": exclusive(2), "shared": PoolConfig(-1)}, {"exclusive": 2, "shared": 5}),
        ({"exclusive": exclusive(-1), "gold": exclusive((7,))}, {"exclusive": 6, "gold": 1}),
    ],
)
def test_minus_one_is_what_remains_after_the_others(asked: dict[str, PoolConfig], expected: dict[str, int]) -> None:
    layout = compute(machine(), {"infra": PoolConfig("rest"), **asked})
    assert {name: len(layout.pools[name].cpus) // 2 for name in expected} == expected
    assert frozenset().union(*(pool.cpus for pool in layout.pools.values())) == machine().cpus


def test_minus_one_takes_all_isolated_cores_that_remain() -> None:
    lists = layout_of(machine(isolated=ISOLATED), exclusive=exclusive(-1), shared=PoolConfig(1))
    assert lists["exclusive"] == ["4,12", "5,13", "6,14"]
    assert lists["infra"] == ["0,1,2,3,8,9,10,11"]


def test_the_rest_may_go_to_another_pool_when_infra_has_a_number() -> None:
    lists = layout_of(machine(), exclusive=exclusive(2), shared=PoolConfig("rest"), infra=PoolConfig(2))
    assert lists == {"exclusive": ["0,8", "1,9"], "shared": ["4,5,6,7,12,13,14,15"], "infra": ["2,3,10,11"]}


def test_an_exclusive_rest_takes_whole_cores() -> None:
    lists = layout_of(machine(cores=4), gold=exclusive("rest"), infra=PoolConfig(cpus="0"))
    assert lists == {"gold": ["1,5", "2,6", "3,7"], "infra": ["0"]}


@pytest.mark.parametrize("cores", ["1-2,7", (1, 2, 7)])
def test_named_cores_come_with_all_their_threads(cores: object) -> None:
    assert layout_of(machine(), gold=exclusive(cores))["gold"] == ["1,9", "2,10", "7,15"]


def test_named_cores_are_out_of_reach_of_counted_pools() -> None:
    assert layout_of(machine(), gold=exclusive((0,)), exclusive=exclusive(2))["exclusive"] == ["1,9", "2,10"]


def test_a_shared_pool_may_name_single_threads_and_infra_gets_their_siblings() -> None:
    lists = layout_of(machine(cores=2), shared=PoolConfig(cpus="0-1"))
    assert lists == {"shared": ["0,1"], "infra": ["2,3"]}


def test_cores_may_be_counted_by_socket() -> None:
    lists = layout_of(machine(sockets=2, cores=4), exclusive=exclusive({"0": 1, "1": 3}))
    assert lists["exclusive"] == ["0,8", "4,12", "5,13", "6,14"]


def test_exclusive_pools_come_by_name_after_the_pool_exclusive() -> None:
    lists = layout_of(machine(), zinc=exclusive(1), gold=exclusive(1), exclusive=exclusive(1), shared=PoolConfig(1))
    assert [lists[name] for name in ("exclusive", "gold", "zinc", "shared")] == [["0,8"], ["1,9"], ["2,10"], ["3,11"]]


def test_exclusive_non_isolcpus_takes_cores_beside_isolated_ones() -> None:
    lists = layout_of(machine(isolated=ISOLATED), **{"exclusive": exclusive(4), "exclusive-non-isolcpus": exclusive("2-3")})
    assert lists["exclusive-non-isolcpus"] == ["2,10", "3,11"]
    assert lists["infra"] == ["0,1,8,9"]


def test_exclusive_non_isolcpus_works_where_nothing_is_isolated() -> None:
    assert layout_of(machine(), **{"exclusive-non-isolcpus": exclusive("6-7")})["exclusive-non-isolcpus"] == ["6,14", "7,15"]


def test_reserved_cpus_are_in_no_pool_and_their_cores_in_no_exclusive_one() -> None:
    lists = layout_of(machine(cores=4), "0,1", exclusive=exclusive(2))
    assert lists == {"exclusive": ["2,6", "3,7"], "infra": ["4,5"]}


def test_reserved_cpus_that_are_not_online_are_named() -> None:
    assert "reserved CPUs 99 are not online" in compute(machine(), pools(), frozenset({99})).warnings


def test_sst_bf_cores_come_first() -> None:
    topology = Topology(tuple(structs.replace(core, base_frequency=28 if core.id in {3, 5} else 21) for core in machine().cores))
    layout = compute(topology, {"exclusive": exclusive(3, prefer="sst-bf"), "infra": PoolConfig("rest")})
    assert names(layout)["exclusive"] == ["0,8", "3,11", "5,13"]
    assert layout.warnings == (
        "pool exclusive prefers sst-bf for 3 cores, but 2 free cores have a higher base frequency than the others",
    )


@pytest.mark.parametrize(("isolated", "expected"), [(set(), ["0,8", "1,9"]), (set(range(16)) - {3, 11}, ["0,8", "6,14"])])
def test_isolated_sst_bf_cores_are_spread_by_themselves(isolated: set[int], expected: list[str]) -> None:
    cores = machine(sockets=2, cores=4, isolated=isolated).cores  # in the order 0 4 1 5 2 6 3 7, of which 0 1 6 are fast
    topology = Topology(tuple(structs.replace(core, base_frequency=28 if core.id in {0, 1, 6} else 21) for core in cores))
    assert layout_of(topology, exclusive=exclusive(2, mode="spread", prefer="sst-bf"))["exclusive"] == expected


def test_sst_cp_classes_go_to_exclusive_then_shared() -> None:
    words = {6: "performance", 7: "performance", 2: "balance_performance"}
    topology = Topology(tuple(structs.replace(core, energy_preference=words.get(core.id, "power")) for core in machine().cores))
    lists = layout_of(topology, exclusive=exclusive(2, prefer="sst-cp"), shared=PoolConfig(1, prefer="sst-cp"))
    assert (lists["exclusive"], lists["shared"]) == (["6,14", "7,15"], ["2,10"])


def test_where_every_core_is_a_socket_the_shared_pools_have_a_warning() -> None:
    topology = Topology(tuple(Core(number, number, frozenset({number})) for number in range(16)))
    warnings = compute(topology, {"exclusive": exclusive(4), "shared": PoolConfig(4), "infra": PoolConfig("rest")}).warnings
    texts = [warning.split(",")[0] for warning in warnings]
    assert texts == ["pool shared has 4 lists of one core each", "pool infra has 8 lists of one core each"]


def test_a_shared_pool_without_load_balancing_has_a_warning() -> None:
    topology = structs.replace(machine(isolated=ISOLATED), unbalanced=frozenset(ISOLATED))
    warnings = compute(topology, {"shared": PoolConfig(4), "infra": PoolConfig("rest")}).warnings
    assert any("pool shared has CPUs 4-7,12-15 that isolcpus removes from load balancing" in warning for warning in warnings)


def test_exclusive_cpus_outside_nohz_full_have_a_warning() -> None:
    topology = structs.replace(machine(isolated=ISOLATED), nohz_full=frozenset({4, 12}))
    warnings = compute(topology, {"exclusive": exclusive(2), "shared": PoolConfig(2), "infra": PoolConfig("rest")}).warnings
    assert warnings == ("pool exclusive has CPUs 5,13 with a periodic tick: nohz_full= does not include them",)


def test_an_exclusive_pool_on_named_cores_that_are_not_isolated_has_a_warning() -> None:
    warnings = compute(machine(isolated=ISOLATED), {"gold": exclusive("3-7"), "infra": PoolConfig("rest")}).warnings
    assert "pool gold has CPUs 3,11, which are not isolated" in warnings


@pytest.mark.parametrize(
    ("asked", "reserved", "complaint"),
    [
        ({"infra": PoolConfig(0)}, "", "pool infra is missing or has 0 cores"),
        ({"gold": exclusive("8-9")}, "", r"pool gold asks for cores 8-9, which do not exist; this node has cores 0-7"),
        ({"gold": exclusive(cpus="16")}, "", r"CPUs 16, which are not online; this node has 0-15"),
        ({"gold": exclusive(cpus="3")}, "", r"CPUs 3 of core 3 alone, whose CPUs are 3,11: an exclusive pool takes whole cores"),
        ({"gold": exclusive((1,)), "shared": PoolConfig((1,))}, "", "pool shared asks for CPUs 1,9, which pool gold has already"),
        ({"gold": exclusive((1,))}, "9", "pool gold asks for CPUs 9, which are reserved"),
        ({"gold": exclusive({"1": 1})}, "", "pool gold asks for 1 cores on socket 1, which has 0 free; sockets are 0"),
        ({"gold": exclusive(-1), "shared": PoolConfig(-1)}, "", "pools gold and shared both ask for all remaining cores"),
        ({"shared": PoolConfig("rest")}, "", "pools infra and shared both ask for the rest"),
        ({"gold": exclusive("0-7")}, "", "no CPU is left for infra: gold and reserved CPUs take all"),
        ({"gold": exclusive(-1), "shared": PoolConfig(7)}, "", r"needs 9 cores \(shared 7 \+ gold 1 or more \+ infra 1\), has 8"),
    ],
)
def test_a_contradiction_names_pool_and_remedy(asked: dict[str, PoolConfig], reserved: str, complaint: str) -> None:
    with pytest.raises(LayoutError, match=complaint):
        layout_of(machine(), reserved, **asked)


def test_an_isolated_core_is_refused_for_exclusive_non_isolcpus() -> None:
    with pytest.raises(LayoutError, match=r"cores 4 of pool exclusive-non-isolcpus are isolated \(isolcpus\)"):
        layout_of(machine(isolated=ISOLATED), **{"exclusive-non-isolcpus": exclusive("3-4")})


@pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: shape.name)
def test_real_machines_are_split_as_written_down(shape: Shape) -> None:
    sections = (Path(layouts.__file__).parent / "layouts.txt").read_text().split("\n\n")
    expected = next(section for section in sections if section.startswith(f"# {shape.name} ("))
    assert "\n".join(layouts.lines_of(shape, layouts.topology_of(shape))).strip() == expected.strip()
