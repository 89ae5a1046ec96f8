from __future__ import annotations

import pytest

from cmk.model.lscpu import LscpuError, parse
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
    assert parse("# Socket,CPU,Core\n1,3,0\n").cores == (Core(0, 1, frozenset({3})),)


def test_a_machine_without_socket_numbers() -> None:
    assert parse("0,0,\n1,1,\n").cores == (Core(0, 0, frozenset({0})), Core(1, 0, frozenset({1})))


def test_isolated_cpus_are_an_argument() -> None:
    topology = parse(DEFAULT, frozenset({1, 5, 2}))
    assert [core.isolated for core in topology.cores] == [False, True, False]
    assert topology.isolated_from == ("cmdline",)


@pytest.mark.parametrize(
    ("text", "message"),
    [("", "lists no CPU"), ("# CPU,Core,Socket\n", "lists no CPU"), ("0,0\n", "line 1"), ("a,b,c\n", "line 1 is not")],
)
def test_text_that_is_not_the_output_of_lscpu_is_refused(text: str, message: str) -> None:
    with pytest.raises(LscpuError, match=message):
        parse(text)
