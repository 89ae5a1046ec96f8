from __future__ import annotations

import hypothesis.strategies as st
import pytest
from hypothesis import given

from cmk.model import cpuset
from cmk.model.remap import CpuMap


def lists(text: str) -> list[frozenset[int]]:
    return [cpuset.parse(part) for part in text.split()]


@pytest.mark.parametrize(
    ("old", "new", "mask", "becomes"),
    [
        ("2,10 3,11", "4,12 5,13", "2-3,10-11", "4-5,12-13"),
        ("2,10 3,11", "4,12 5,13", "2", "4"),
        ("2,10 3,11", "4,12 5,13", "10", "12"),
        ("2,10 3,11", "4,12 5,13", "3,11", "5,13"),
        ("2,10 3,11", "3,11 6,14", "3", "3"),
        ("2,10 3,11", "3,11 6,14", "2-3", "3,6"),
        ("2,10 3,11", "3,11 6,14", "2-3,10-11", "3,6,11,14"),
        ("2,10", "4", "10", "4"),
        ("4-7", "4-5", "6", "4"),
        ("4-7", "4-5", "4-7", "4-5"),
        ("4-7", "4-5", "5", "5"),
        ("4-5", "4-7", "4-5", "4-7"),
        ("4-5", "4-7", "5", "5"),
        ("2,10", "4,12", "0-15", "0-15"),
        ("2,10", "4,12", "8", "8"),
        ("2,10", "4,12", "2,8", "2,8"),
    ],
)
def test_a_mask_is_mapped_cpu_by_cpu(old: str, new: str, mask: str, becomes: str) -> None:
    assert CpuMap(lists(old), lists(new)).new_mask(cpuset.parse(mask)) == cpuset.parse(becomes)


@st.composite
def moves(draw: st.DrawFn) -> tuple[list[frozenset[int]], list[frozenset[int]], frozenset[int]]:
    """Whole cores of two CPUs before and after, as many, and a mask within those before."""
    count = draw(st.integers(1, 4))
    cores = [frozenset({number, number + 8}) for number in range(8)]
    old = draw(st.permutations(cores))[:count]
    new = draw(st.permutations(cores))[:count]
    return old, new, draw(st.sets(st.sampled_from(sorted(frozenset().union(*old))), min_size=1).map(frozenset))


@given(moves())
def test_no_mask_is_flattened_and_mapping_again_changes_nothing(
    move: tuple[list[frozenset[int]], list[frozenset[int]], frozenset[int]],
) -> None:
    old, new, mask = move
    cpu_map = CpuMap(old, new)
    becomes = cpu_map.new_mask(mask)
    assert becomes <= cpu_map.new
    assert len(becomes) == len(mask)
    assert sorted(cpu // 8 for cpu in becomes) == sorted(cpu // 8 for cpu in mask), "first siblings stay first siblings"
    assert mask & cpu_map.new <= becomes, "CPUs that stay are kept"
    assert cpu_map.new_mask(becomes) == becomes
