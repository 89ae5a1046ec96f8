from __future__ import annotations

import pytest

from cmk.model.cpuset import CpuSetError
from cmk.model.lscpu import LscpuError, parse, parse_json
from cmk.model.topology import Core

DEFAULT = """\
# The following is the parsable format, which can be fed to other
# programs. Each different item in every column has an unique ID
# starting usually from zero.
# CPU,Core,Socket,Node,,L1d,L1i,L2,L3
0,0,0,0,,0,0,0,0
1,1,0,0,,1,1,1,0
2,2,1,1,,2,2,2,1
4,0,0,0,,0,0,0,0
5,1,0,0,,1,1,1,0
6,2,1,1,,2,2,2,1
"""


def test_the_default_columns() -> None:
    assert parse(DEFAULT).cores == (
        Core(0, 0, frozenset({0, 4})),
        Core(1, 0, frozenset({1, 5})),
        Core(2, 1, frozenset({2, 6})),
    )


def test_columns_in_another_order() -> None:
    cores = parse("# Socket,CPU,Core\n1,3,0\n0,1,1\n").cores
    assert cores == (Core(0, 0, frozenset({1})), Core(1, 1, frozenset({3})))


def test_a_machine_without_socket_numbers() -> None:
    assert parse("0,0,\n1,1,\n").cores == (Core(0, 0, frozenset({0})), Core(1, 0, frozenset({1})))


def test_isolated_cpus_are_an_argument() -> None:
    topology = parse(DEFAULT, "1,2,5")
    assert [core.isolated for core in topology.cores] == [False, True, False]
    assert topology.isolated_from == ("cmdline",)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "lists no CPU"),
        ("# CPU,Core,Socket\n", "lists no CPU"),
        ("# CPU,Core,Socket\n0,,\n", "lists no CPU"),
        ("0,0\n", "line 1 is not"),
        ("a,b,c\n", "line 1: cpu 'a' is no number"),
        ("0,0,-1\n", "line 1: socket '-1' is no number"),
        ("0,0,0\n0,1,0\n", "line 2: CPU 0 is listed twice"),
        ("# CPU,Socket\n0,0\n", "line 1 has no column Core"),
        ("# CPU,Node,Socket,Core,L1d\n0,0,0,0,0\n1,0,0,0,1\n", "line 3: CPUs 0 and 1 have the same core, but not the same L1d"),
        ("\x7fELF\0", "line 1 is not"),
    ],
)
def test_text_that_is_not_the_output_of_lscpu_is_refused(text: str, message: str) -> None:
    with pytest.raises(LscpuError, match=message):
        parse(text)


@pytest.mark.parametrize(
    ("text", "cores"),
    [
        # 7 of 24 CPUs offline, in small: lscpu -a -p.
        ("0,,\n1,,\n2,0,0\n3,0,0\n", [(0, {2, 3})]),
        ("# CPU,Core,Socket,Online\n0,0,0,Y\n1,0,0,N\n", [(0, {0})]),
        # Core numbers per socket, and per cluster.
        ("0,0,0\n1,1,0\n2,0,1\n3,1,1\n", [(0, {0}), (0, {1}), (1, {2}), (1, {3})]),
        ("# CPU,Core,Socket,Cluster\n0,0,0,0\n1,0,0,1\n", [(0, {0}), (0, {1})]),
        # Numbers of the hardware, lscpu -y.
        ("# CPU,Core,Socket\n0,36,8\n1,12,8\n2,36,40\n3,36,8\n", [(0, {0, 3}), (0, {1}), (1, {2})]),
        ("# CPU,Core,Socket\r\n0,0,0\r\n1,1,0\r\n", [(0, {0}), (0, {1})]),
    ],
)
def test_cores_are_those_of_the_machine_itself(text: str, cores: list[tuple[int, set[int]]]) -> None:
    assert parse(text).cores == tuple(Core(number, socket, frozenset(cpus)) for number, (socket, cpus) in enumerate(cores))


def test_json() -> None:
    cpus = [
        {"cpu": 0, "node": 0, "socket": 0, "core": 0, "l1d:l1i:l2:l3": "0:0:0:0", "online": True},
        {"cpu": "1", "node": "0", "socket": "0", "core": "0", "l1d:l1i:l2:l3": "0:0:0:0", "online": "yes"},
        {"cpu": 2, "node": None, "socket": None, "core": None, "l1d:l1i:l2:l3": "-", "online": False},
    ]
    assert parse_json(cpus).cores == (Core(0, 0, frozenset({0, 1})),)


@pytest.mark.parametrize(
    ("cpus", "message"),
    [
        ({}, "are no list of CPUs"),
        ([1], "are no list of CPUs"),
        ([], "lists no CPU"),
        ([{"cpu": 0, "core": 0}], "CPU 0 has no 'socket'"),
    ],
)
def test_json_of_something_else_is_refused(cpus: object, message: str) -> None:
    with pytest.raises(LscpuError, match=message):
        parse_json(cpus)


def test_isolcpus_beyond_the_machine_is_refused() -> None:
    assert parse("0,0,0\n1,1,0\n", "managed_irq,domain,1").cores[1].isolated
    with pytest.raises(CpuSetError, match="CPU 2 is beyond the last one, 1"):
        parse("0,0,0\n1,1,0\n", "1-4")
