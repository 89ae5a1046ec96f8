"""The settings of isolation layers, and their states."""

from __future__ import annotations

from typing import Literal

import msgspec

from cmk.model.cpuset import CpuSet


class Isolation(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename="camel"):
    """How exclusive cores are kept for their owners.

    ``pods``: cpusets of other pods leave them out. ``own_pod``: so do those of the other containers in the owner's pod. ``host``:
    processes of the host leave them, thread by thread (``affinity``) or by their systemd slices. ``irqs``: movable interrupts leave them.
    ``partition``: containers that run on exclusive cores alone become isolated partitions where that is possible. ``idle``: whether cores
    without an owner are lent to everybody.
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
    """The state of a layer: ``on``, ``off``, ``impossible`` or ``conflict``, and the reason.

    ``left``: the processes, interrupts or containers that it could not move or isolate, each with its reason where there is one.
    """

    state: str
    reason: str = ""
    left: tuple[str, ...] = ()


class Thread(msgspec.Struct, frozen=True):
    """A thread whose CPU mask was changed: its tid, its start time (which tells it from a later thread with that tid), and both masks."""

    tid: int
    start: int
    before: CpuSet
    since: CpuSet
