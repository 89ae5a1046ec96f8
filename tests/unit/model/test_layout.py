import pytest

from cmk.model.config import PoolConfig
from cmk.model.layout import Layout, LayoutError, compute
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


def test_isolated_cores_that_nobody_asked_for_are_stranded_and_named() -> None:
    layout = compute(machine(isolated={4, 12, 5, 13, 6, 14, 7, 15}), pools(exclusive=1))
    assert layout.warnings == ("isolated CPUs 6-7,14-15 are in no pool: nobody asked for them",)


def test_a_core_counts_as_isolated_only_when_all_its_threads_are() -> None:
    layout = compute(machine(isolated={4, 12, 5, 13, 6}), pools(exclusive=1))
    assert "6" in names(layout)["infra"][0].split(",")
    assert layout.warnings == ("cores with CPUs 6,14 are only partly isolated and count as not isolated",)


def test_spread_goes_round_the_sockets() -> None:
    layout = compute(machine(sockets=2, cores=4), pools(mode="spread"))
    assert names(layout)["exclusive"] == ["0,8", "1,9", "4,12", "5,13"]


def test_packed_fills_one_socket_first() -> None:
    layout = compute(machine(sockets=2, cores=4), pools())
    assert [item.socket for item in layout.pools["exclusive"].lists] == [0, 0, 0, 0]


def test_a_shared_pool_has_one_list_per_socket() -> None:
    layout = compute(machine(sockets=2, cores=4), pools(exclusive=2, shared=4, shared_mode="spread"))
    assert names(layout)["shared"] == ["2,3,10,11", "4,5,12,13"]
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
def test_an_impossible_request_says_what_was_asked_and_what_there_is(
    topology: object, asked: dict[str, PoolConfig], complaint: str
) -> None:
    with pytest.raises(LayoutError, match=complaint):
        compute(topology, asked)  # type: ignore[arg-type]
