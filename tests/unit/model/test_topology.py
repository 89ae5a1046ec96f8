from __future__ import annotations

import msgspec
import pytest

from cmk.model.topology import Core, Topology, difference

BOTH = frozenset({0, 8})
TWO = Topology((Core(0, 0, frozenset({0, 2})), Core(1, 0, frozenset({1, 3}))))


@pytest.mark.parametrize(
    ("isolated", "whole", "partly"),
    [(frozenset(), False, False), (frozenset({0}), False, True), (BOTH, True, False)],
)
def test_a_core_is_isolated_only_with_all_its_threads(isolated: frozenset[int], whole: bool, partly: bool) -> None:
    core = Core(0, 0, BOTH, isolated)
    assert (core.isolated, core.partly_isolated, Topology((core,)).has_isolated) == (whole, partly, whole)


def test_a_topology_has_the_cpus_and_sockets_of_its_cores() -> None:
    topology = Topology((Core(0, 1, BOTH), Core(1, 0, frozenset({1})), Core(2, 1, frozenset({2}))))
    assert (topology.cpus, topology.sockets) == (frozenset({0, 1, 2, 8}), (0, 1))


@pytest.mark.parametrize(
    ("made_for", "text"),
    [
        (TWO, ""),
        (Topology(tuple(msgspec.structs.replace(core, base_frequency=5, isolated_cpus=core.cpus) for core in TWO.cores)), ""),
        (Topology(TWO.cores[:1]), "4 CPUs, layout made for 2: CPUs 1,3 are new"),
        (Topology((*TWO.cores, Core(2, 0, frozenset({4})))), "4 CPUs, layout made for 5: CPUs 4 are gone or offline"),
        (
            Topology((Core(0, 0, frozenset({4, 5})), TWO.cores[1])),
            "4 CPUs, layout made for 4: CPUs 0,2 are new and 4-5 are gone or offline",
        ),
        (
            Topology((Core(0, 0, frozenset({0, 1})), Core(1, 0, frozenset({2, 3})))),
            "cores and sockets have other CPUs than those that the layout was made for",
        ),
    ],
)
def test_machines_differ_in_cores_and_sockets(made_for: Topology, text: str) -> None:
    assert difference(TWO, made_for) == text
