"""Pools as CMK's command line asks for them, and the chart's values that say the same."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import msgspec

from cmk.model import cpuset
from cmk.model.config import ConfigError, PoolConfig
from cmk.model.layout import EXCLUSIVE, INFRA, NON_ISOLCPUS, SHARED

Mode = Literal["packed", "spread"]
NONE = "-1"


class PoolFlags(msgspec.Struct, frozen=True):
    """``--num-exclusive-cores`` and what goes with it, defaults as CMK 1.5.2 had them. ``socket`` -1 is any."""

    exclusive: int = 4
    shared: int = 1
    exclusive_mode: Mode = "packed"
    shared_mode: Mode = "packed"
    excl_non_isolcpus: str = NONE
    socket: int = -1
    prefer: Literal["sst-bf", "sst-cp"] | None = None

    def pools(self) -> dict[str, PoolConfig]:
        """The configuration meant; raises ConfigError."""
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
    """``pools`` of the chart's values: what differs from built-in settings is all that is written."""
    made: dict[str, Any] = {}
    for name, pool in pools.items():
        if name == INFRA:
            continue  # the rest, as built in
        cores = pool.cores
        if isinstance(cores, tuple):
            text = cpuset.kernel_list(cores)
            cores = text if len(cores) > 1 else list(cores)  # type: ignore[assignment]  # a lone number would count
        made[name] = {"cores": cores}
        if pool.mode != "packed":
            made[name]["mode"] = pool.mode
        if pool.prefer:
            made[name]["prefer"] = pool.prefer
        if pool.exclusive and name not in {EXCLUSIVE, NON_ISOLCPUS}:
            made[name]["exclusive"] = True
    return made
