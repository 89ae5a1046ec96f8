from __future__ import annotations

import pytest

from cmk.model.topology import Core, Topology

BOTH = frozenset({0, 8})


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
