"""One node's cores while they are assigned; tests/unit/model/test_layout.py has whole layouts."""

from __future__ import annotations

import pytest

from cmk.model.config import PoolConfig
from cmk.model.cores import CoreAssignment, LayoutError
from tests.unit.machines import machine

# Cores 0 to 3 with CPUs 0,4 to 3,7; core 3 is isolated, CPU 0 is reserved.
RESERVED = frozenset({0})


def assignment() -> CoreAssignment:
    return CoreAssignment(machine(cores=4, isolated={3, 7}), RESERVED)


@pytest.mark.parametrize(("isolated", "ids"), [(None, [1, 2, 3]), (True, [3]), (False, [1, 2])])
def test_a_core_is_free_when_all_its_cpus_are(isolated: bool | None, ids: list[int]) -> None:
    assert [core.id for core in assignment().free_cores(isolated)] == ids


def test_the_sibling_of_a_reserved_cpu_is_free_on_a_partial_core() -> None:
    assert assignment().free_cpus_of_partial_cores() == {4}


def test_assigned_cpus_are_not_free_any_more() -> None:
    cores = assignment()
    cores.assign_cores("gold", frozenset({1}), whole=True)
    cores.assign_cpus("shared", frozenset({2}), whole=False)
    cores.assign_cpus("shared", frozenset({6}), whole=False)
    assert cores.assigned == {"gold": {1, 5}, "shared": {2, 6}}
    assert cores.free_cpus == {3, 4, 7}


def test_a_number_of_cores_is_assigned_from_those_of_the_kind() -> None:
    cores = assignment()
    cores.assign_number("gold", 1, PoolConfig(1, exclusive=True), isolated=True, socket="")
    assert cores.assigned == {"gold": {3, 7}}


@pytest.mark.parametrize(
    ("cpus", "whole", "complaint"),
    [
        ({9}, False, "CPUs 9, which are not online"),
        ({0}, False, "CPUs 0, which are reserved"),
        ({1}, False, "CPUs 1, which pool gold has already"),
        ({2}, True, "CPUs 2 of core 2 alone, whose CPUs are 2,6"),
    ],
)
def test_a_refused_assignment_names_the_cpus_and_assigns_none(cpus: set[int], whole: bool, complaint: str) -> None:
    cores = assignment()
    cores.assign_cpus("gold", frozenset({1, 5}), whole=True)
    with pytest.raises(LayoutError, match=f"pool shared asks for {complaint}"):
        cores.assign_cpus("shared", frozenset(cpus), whole=whole)
    assert cores.assigned == {"gold": {1, 5}}
