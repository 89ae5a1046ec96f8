from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import structs

from cmk.model import cpuset, short_topology
from cmk.model.cpuset import CpuSetError
from cmk.model.topology import Core, Topology
from tests.unit.machines import machine

SMT = machine(sockets=2, cores=4)
FAST = Topology(tuple(structs.replace(core, base_frequency=(core.id % 2) * 100, energy_preference="power") for core in SMT.cores))


def through_json(topology: Topology) -> Topology:
    return short_topology.load(json.loads(json.dumps(short_topology.dump(topology), sort_keys=True)), topology.isolated_from)


@pytest.mark.parametrize(
    "topology",
    [
        pytest.param(machine(cores=1, threads=1), id="one CPU"),
        pytest.param(SMT, id="second threads after all first ones"),
        pytest.param(
            Topology(tuple(Core(n, n % 2, frozenset({2 * n, 2 * n + 1})) for n in range(8))), id="siblings side by side"
        ),
        pytest.param(Topology((*SMT.cores[:3], structs.replace(SMT.cores[3], cpus=frozenset({3})))), id="a thread is offline"),
        pytest.param(Topology((*SMT.cores[:2], *SMT.cores[3:])), id="a core is offline"),
        pytest.param(machine(isolated={2, 10, 3}), id="isolated and partly isolated cores"),
        pytest.param(
            Topology(SMT.cores, ("sysfs", "cmdline"), frozenset({1, 2}), frozenset({3}), ("it is ignored",)),
            id="what the kernel was told",
        ),
        pytest.param(FAST, id="cores of two kinds"),
        pytest.param(machine(sockets=12, cores=2), id="sockets of two digits"),
    ],
)
def test_a_topology_is_read_as_it_was_written(topology: Topology) -> None:
    assert through_json(topology) == topology


def test_cores_that_differ_in_nothing_but_numbers_are_one_entry() -> None:
    assert short_topology.dump(SMT) == {
        "sockets": {"0": ({"cores": "0-3", "cpus": ("0-3", "8-11")},), "1": ({"cores": "4-7", "cpus": ("4-7", "12-15")},)}
    }


@given(st.lists(st.integers(0, 600), min_size=1))
def test_numbers_keep_their_order(numbers: list[int]) -> None:
    assert short_topology.numbers_of(short_topology.text_of(numbers)) == numbers


@given(st.sets(st.integers(0, 600)))
def test_a_set_is_a_list_of_the_kernel(numbers: set[int]) -> None:
    assert cpuset.parse(short_topology.text_of(sorted(numbers))) == numbers


@pytest.mark.parametrize(
    "entry",
    [
        pytest.param({"cores": "0-3", "cpus": ["0-2"]}, id="a core without a CPU"),
        pytest.param({"cores": "x", "cpus": ["0"]}, id="no list"),
        pytest.param({"cores": "0"}, id="no CPUs"),
        pytest.param({"cores": ",".join(["0-65535"] * 9), "cpus": []}, id="more numbers than memory has room for"),
    ],
)
def test_what_is_no_topology_is_refused(entry: dict[str, object]) -> None:
    with pytest.raises((ValueError, CpuSetError)):
        short_topology.load({"sockets": {"0": [entry]}}, ())
