"""Pools of CMK's command line, and the chart's values for them."""

from __future__ import annotations

import re
from typing import Any

import pytest

from cmk.model.config import ConfigError, PoolConfig
from cmk.model.flags import PoolFlags, values_of


@pytest.mark.parametrize(
    ("flags", "values"),
    [
        (PoolFlags(), {"exclusive": {"cores": 4}, "shared": {"cores": 1}}),
        (PoolFlags(exclusive=-1, shared=0), {"exclusive": {"cores": -1}, "shared": {"cores": 0}}),
        (PoolFlags(socket=1), {"exclusive": {"cores": {"1": 4}}, "shared": {"cores": {"1": 1}}}),
        (PoolFlags(prefer="sst-bf"), {"exclusive": {"cores": 4, "prefer": "sst-bf"}, "shared": {"cores": 1}}),
    ],
)
def test_values_omit_what_is_built_in(flags: PoolFlags, values: dict[str, Any]) -> None:
    assert values_of(flags.pools()) == values


@pytest.mark.parametrize(
    ("pools", "values"),
    [
        ({"exclusive": PoolConfig((5,), exclusive=True)}, {"exclusive": {"cores": [5]}}),
        ({"exclusive-non-isolcpus": PoolConfig((5, 6), exclusive=True)}, {"exclusive-non-isolcpus": {"cores": "5-6"}}),
        ({"gold": PoolConfig(1, exclusive=True)}, {"gold": {"cores": 1, "exclusive": True}}),
        ({"infra": PoolConfig("rest")}, {}),
    ],
)
def test_values_of_named_cores_and_of_other_pools(pools: dict[str, PoolConfig], values: dict[str, Any]) -> None:
    assert values_of(pools) == values


@pytest.mark.parametrize(
    ("flags", "text"),
    [
        (PoolFlags(exclusive=-2), "--num-exclusive-cores=-2: write a number of cores, or -1 for all that remain"),
        (PoolFlags(shared=-1, socket=0), "--num-shared-cores=-1 and --socket-id=0 exclude each other: write a number of cores"),
        (PoolFlags(excl_non_isolcpus="4-1"), "--excl-non-isolcpus=4-1: range '4-1' in CPU list '4-1' runs backwards"),
    ],
)
def test_flags_that_are_not_valid_are_named_with_a_remedy(flags: PoolFlags, text: str) -> None:
    with pytest.raises(ConfigError, match=f"^{re.escape(text)}$"):
        flags.pools()
