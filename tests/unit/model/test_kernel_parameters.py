"""Command lines as people write them, and what a kernel of 8 CPUs does with each."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cmk.model.cpuset import CpuSetError
from cmk.model.kernel_parameters import Machine, parse_isolcpus, read

EIGHT = Machine(7, frozenset(range(8)))


@pytest.mark.parametrize(
    ("line", "by_flag"),
    [
        ("quiet", {}),
        ("isolcpus=2-5", {"domain": {2, 3, 4, 5}}),
        ('isolcpus="2-5"', {"domain": {2, 3, 4, 5}}),
        ('"isolcpus=2-5" quiet', {"domain": {2, 3, 4, 5}}),
        ('isolcpus="2 4" quiet', {"domain": {2, 4}}),
        ('dyndbg="file x +p; isolcpus=3" isolcpus=2', {"domain": {2}}),
        ("quiet -- isolcpus=2", {}),
        ("isolcpus=managed_irq,domain,6-N", {"domain": {6, 7}, "managed_irq": {6, 7}}),
        ("isolcpus=managed_irq,2", {"managed_irq": {2}}),
        ("isolcpus=nohz,1", {"nohz": {1}}),
        ("isolcpus=Domain,2-5", {"domain": {2, 3, 4, 5}}),  # a flag that the kernel does not know is skipped
        ("isolcpus=all", {}),  # taken for a flag
        ("isolcpus=", {}),
        ("isolcpus", {}),
        ("isolcpus=0-7:1/4", {"domain": {0, 4}}),
        ("isolcpus=,2,,4,", {"domain": {2, 4}}),
        ("isolcpus=0-7", {"domain": {1, 2, 3, 4, 5, 6, 7}}),  # one is left, that which boots
        ("isolcpus=1 isolcpus=1", {"domain": {1}}),
        ("isolcpus=managed_irq,1 isolcpus=domain,2", {"managed_irq": {1}, "domain": {2}}),
    ],
)
def test_isolcpus_as_the_kernel_takes_it(line: str, by_flag: dict[str, set[int]]) -> None:
    found = read(line, EIGHT)
    assert ({flag: set(cpus) for flag, cpus in found.by_flag.items()}, found.warnings) == (by_flag, ())


@pytest.mark.parametrize(
    ("line", "warning"),
    [
        (
            "isolcpus=$ISOL_CPUS",
            "isolcpus=$ISOL_CPUS is ignored by the kernel: '$ISOL_CPUS' in CPU list '$ISOL_CPUS' is not a CPU",
        ),
        ("isolcpus=2-5;6", "isolcpus=2-5;6 is ignored"),
        ("isolcpus=2-8", "isolcpus=2-8 is ignored by the kernel: CPU 8 is beyond the last one, 7"),
        ("isolcpus=5-2", "isolcpus=5-2 is ignored by the kernel: range '5-2'"),
        ("isolcpus=dom@in,2", "isolcpus=dom@in,2 is ignored by the kernel: 'dom@in' is no flag and no CPU list"),
        ("isolcpus=1\x1b[0m", r"isolcpus=1\x1b[0m is ignored"),
        ("nohz_full=x", "nohz_full=x is ignored by the kernel"),
        ("isolcpus=" + "9" * 5000, "isolcpus=" + "9" * 51 + " is ignored by the kernel"),
    ],
)
def test_what_the_kernel_ignores_is_told_and_isolates_nothing(line: str, warning: str) -> None:
    found = read(line, EIGHT)
    assert (found.by_flag, found.nohz_full, len(found.warnings)) == ({}, frozenset(), 1)
    assert found.warnings[0].startswith(warning)


def test_the_first_list_for_a_flag_counts() -> None:
    found = read("isolcpus=1 isolcpus=domain,managed_irq,2", EIGHT)
    assert found.by_flag == {"domain": {1}}
    assert found.warnings == (
        "isolcpus=domain,managed_irq,2 is ignored by the kernel: the kernel takes the first list for each flag",
    )


@pytest.mark.parametrize(
    ("line", "cpus"),
    [("nohz_full=4-N", {4, 5, 6, 7}), ("nohz-full=4", {4}), ("nohz_full=all", set(range(1, 8))), ("nohz_full", set())],
)
def test_nohz_full(line: str, cpus: set[int]) -> None:
    assert (read(line, EIGHT).nohz_full, read(line, EIGHT).warnings) == (cpus, ())


@given(st.text(st.sampled_from('isolcpu=nhz_f"-,0123456789N:/ \t$a\x00é')))
def test_no_command_line_is_an_error(text: str) -> None:
    found = read(f"isolcpus={text} {text}", EIGHT)
    assert all(cpus <= EIGHT.present for cpus in (*found.by_flag.values(), found.nohz_full))


def test_a_value_of_somebody_s_own_is_refused() -> None:
    assert parse_isolcpus("managed_irq,domain,4-7", EIGHT)[1] == {4, 5, 6, 7}
    with pytest.raises(CpuSetError, match="'2-x' in CPU list '2-x' is not a CPU"):
        parse_isolcpus("2-x", EIGHT)
