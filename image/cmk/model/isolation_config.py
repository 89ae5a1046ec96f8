"""Isolation layers: what the configuration asks for, and how each of them is doing."""

from __future__ import annotations

from typing import Literal

import msgspec

from cmk.model.cpuset import CpuSet


class Isolation(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename="camel"):
    """How exclusive cores are kept for their owners.

    ``pods``: other pods' cpusets leave them out. ``own_pod``: so do the containers beside the owner's in its pod. ``host``: processes of
    the host leave them, one by one (``affinity``) or by their systemd slices. ``irqs``: movable interrupts leave them.
    ``partition``: containers that are on cores of their own become isolated partitions where that is possible.
    ``idle``: whether cores without an owner are lent to everybody.
    """

    pods: bool = True
    own_pod: bool = True
    host: Literal["off", "affinity", "slices"] = "off"
    irqs: Literal["off", "on"] = "off"
    partition: Literal["off", "auto"] = "off"
    idle: Literal["reserved", "lend"] = "reserved"

    def values(self) -> dict[str, bool | str]:
        """Each layer's setting under its name in the chart's values."""
        return dict(msgspec.to_builtins(self))


ALL_OFF = Isolation(pods=False, own_pod=False, idle="lend")


NO_CGROUPS = "the agent has no access to cgroups"
ON, OFF, IMPOSSIBLE, CONFLICT = "on", "off", "impossible", "conflict"


class LayerState(msgspec.Struct, frozen=True):
    """How one layer is doing: ``on``, ``off``, ``impossible`` here or ``conflict``, and why; ``left`` lists what it could not move."""

    state: str
    reason: str = ""
    left: tuple[str, ...] = ()


class Thread(msgspec.Struct, frozen=True):
    """A thread of the host that was moved: where it might run before, and since."""

    tid: int
    start: int
    before: CpuSet
    since: CpuSet
