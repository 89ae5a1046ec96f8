"""Pools as CMK's command line describes them, and the equivalent values of the chart."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import msgspec

from cmk.model import cpuset
from cmk.model.config import ConfigError, PoolConfig
from cmk.model.layout import EXCLUSIVE, INFRA, NON_ISOLCPUS, SHARED

NONE = "-1"


class PoolFlags(msgspec.Struct, frozen=True):
    """``--num-exclusive-cores`` and the other flags of pools, with the defaults of CMK 1.5.2. ``socket`` -1 means any."""

    exclusive: int = 4
    shared: int = 1
    exclusive_mode: Literal["packed", "spread"] = "packed"
    shared_mode: Literal["packed", "spread"] = "packed"
    excl_non_isolcpus: str = NONE
    socket: int = -1
    prefer: Literal["sst-bf", "sst-cp"] | None = None

    def pools(self) -> dict[str, PoolConfig]:
        """The pools that the flags describe; raises ConfigError."""
        pools = {
            EXCLUSIVE: PoolConfig(self._count("exclusive", self.exclusive), None, True, self.exclusive_mode, self.prefer),
            SHARED: PoolConfig(self._count("shared", self.shared), None, False, self.shared_mode),
            INFRA: PoolConfig("rest"),
        }
        if self.excl_non_isolcpus != NONE:
            pools[NON_ISOLCPUS] = PoolConfig(self._named(), exclusive=True)
        return pools

    def _count(self, name: str, number: int) -> int | dict[str, int]:
        if number < -1:
            raise ConfigError(f"--num-{name}-cores={number}: write a number of cores, or -1 for all that remain")
        if self.socket < 0:
            return number
        if number < 0:
            raise ConfigError(f"--num-{name}-cores=-1 and --socket-id={self.socket} exclude each other: write a number of cores")
        return {str(self.socket): number}

    def _named(self) -> tuple[int, ...]:
        try:
            return tuple(sorted(cpuset.parse(self.excl_non_isolcpus)))
        except cpuset.CpuSetError as error:
            raise ConfigError(f"--excl-non-isolcpus={self.excl_non_isolcpus}: {error}") from error


def values_of(pools: Mapping[str, PoolConfig]) -> dict[str, Any]:
    """``pools`` of the chart's values, without settings that have their built-in value."""
    values: dict[str, Any] = {}
    for name, pool in pools.items():
        if name == INFRA:
            continue  # the rest is built in
        cores = pool.cores
        if isinstance(cores, tuple):
            text = cpuset.kernel_list(cores)
            cores = text if len(cores) > 1 else list(cores)  # type: ignore[assignment]  # a lone number would count
        values[name] = {"cores": cores}
        if pool.mode != "packed":
            values[name]["mode"] = pool.mode
        if pool.prefer:
            values[name]["prefer"] = pool.prefer
        if pool.exclusive and name not in {EXCLUSIVE, NON_ISOLCPUS}:
            values[name]["exclusive"] = True
    return values
