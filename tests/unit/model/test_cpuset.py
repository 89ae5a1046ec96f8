import pytest
from hypothesis import given
from hypothesis import strategies as st

from cmk.model import cpuset

CPUS = st.frozensets(st.integers(0, 4095), max_size=200)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", set()),
        ("\n", set()),
        ("0", {0}),
        ("0-3,8\n", {0, 1, 2, 3, 8}),
        ("3,1,1-2", {1, 2, 3}),
        ("0-15:2/4", {0, 1, 4, 5, 8, 9, 12, 13}),
        ("0-6:1/3", {0, 3, 6}),
        ("all", set(range(8))),
        ("N", {7}),
        ("4-N", {4, 5, 6, 7}),
        (" 1 , 2 ", {1, 2}),
    ],
)
def test_reads_kernel_lists(text: str, expected: set[int]) -> None:
    assert cpuset.parse(text, last_cpu=7) == expected


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("a", "'a' in CPU list 'a' is not a CPU"),
        ("1,,2", "'' in CPU list"),
        ("3-1", "runs backwards"),
        ("0-7:3/2", "between 1 and 2"),
        ("0-7:0/2", "between 1 and 2"),
        ("-1", "is not a CPU"),
        ("99999999999", "beyond"),
        ("1-2-3", "is not a CPU"),
        ("0x3", "is not a CPU"),
    ],
)
def test_refuses_what_the_kernel_refuses(text: str, complaint: str) -> None:
    with pytest.raises(cpuset.CpuSetError, match=complaint):
        cpuset.parse(text)


def test_all_needs_to_know_the_machine() -> None:
    with pytest.raises(cpuset.CpuSetError, match="needs to know"):
        cpuset.parse("all")


@given(CPUS)
def test_kernel_list_round_trips(cpus: frozenset[int]) -> None:
    assert cpuset.parse(cpuset.kernel_list(cpus)) == cpus


def test_formats_as_the_kernel_does() -> None:
    assert cpuset.kernel_list({0, 1, 2, 8}) == "0-2,8"
