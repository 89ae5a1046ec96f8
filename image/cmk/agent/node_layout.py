"""The node's layout: the one that is saved, and what the configuration asks for instead of it."""

from __future__ import annotations

import functools
import logging

import msgspec

from cmk.agent.files import StateFiles
from cmk.agent.observed import Observed
from cmk.host import affinity
from cmk.legacy.takeover import TakenOver, as_config
from cmk.model import layout
from cmk.model.config import Chosen, ConfigError, Section
from cmk.model.cpuset import CpuSet
from cmk.model.layout import Layout, LayoutError, SavedLayout
from cmk.model.reasons import Obstacle
from cmk.model.topology import Topology, difference

log = logging.getLogger(__name__)


class Same(msgspec.Struct, frozen=True):
    """The configuration asks for the pools that the node has; ``saved`` names it as their source."""

    saved: SavedLayout


class Impossible(msgspec.Struct, frozen=True):
    """The configuration, which has this hash, cannot be applied to this node."""

    reason: Obstacle
    text: str
    hash: str = ""


class Wanted(msgspec.Struct, frozen=True):
    """The configuration asks for these pools."""

    saved: SavedLayout


class Outdated(msgspec.Struct, frozen=True):
    """``kept`` are the pools that the configuration asks for, but of another machine, as ``text`` says. ``saved``
    are those of this one, None where it cannot have them.
    """

    kept: SavedLayout
    saved: SavedLayout | None
    text: str


Answer = Same | Impossible | Wanted | Outdated


class NodeLayout:
    """``saved`` is the layout that the node has, None before the first. Only ``resume``, ``keep``, ``replace`` and ``forget`` change it."""

    def __init__(self, node: str, files: StateFiles, topology: Topology) -> None:
        self.name = node
        self.topology = topology
        self.saved: SavedLayout | None = None
        self._files = files

    def resume(self, saved: SavedLayout | None, *, in_use: bool) -> None:
        """Go on with the layout that an earlier agent saved. If it has CPUs that are not online any more, only while tasks run on it."""
        self.saved = saved
        if self.saved is None or in_use:
            return
        if not all(pool.cpus <= self.topology.cpus for pool in self.saved.layout.pools.values()):
            log.warning("the saved layout has CPUs that are not online any more: making a new one")
            self.saved = None

    def wanted(self, observed: Observed) -> Answer | None:
        """What the configuration asks for; None while that is not known. A node that has pools keeps them under one that cannot be read."""
        saved, chosen = self.saved, observed.chosen
        if saved is None and observed.error:
            return Impossible(Obstacle.CONFIG_INVALID, observed.error)
        if chosen is None:
            return None
        same = None
        if saved is not None and chosen.section.same_pools(saved.section):
            same = msgspec.structs.replace(saved, section=chosen.section, scope=chosen.scope)
            if not self.changed:
                return Same(same)
        try:
            pools = self._compute(chosen, observed)
        except ConfigError as error:
            return Impossible(Obstacle.CONFIG_INVALID, str(error), chosen.section.hash)
        except LayoutError as error:
            if same is not None:
                return Outdated(same, None, f"{self.changed}: {error}")
            remedy = "the pools stay as they were" if saved else f"set hosts.{self.name}.pools in the chart's values"
            return Impossible(Obstacle.LAYOUT_IMPOSSIBLE, f"{error}; {remedy}", chosen.section.hash)
        new = SavedLayout(pools, chosen.section, chosen.scope, self.topology)
        if saved is not None and pools.pools == saved.layout.pools:
            return Same(new)
        return Wanted(new) if same is None else Outdated(same, new, self.changed)

    def adopted(self, old: TakenOver, source: str, observed: Observed) -> SavedLayout | None:
        """The layout that an older CMK made, from ``source``; None while the configuration is not known.

        It counts as configured when the configuration would have made the same; else it is a configuration of its own, and the report says
        what differs.
        """
        if observed.chosen is None:
            return None
        section = observed.chosen.section
        try:
            is_same = self._compute(observed.chosen, observed).pools == old.layout.pools
        except (ConfigError, LayoutError):
            is_same = False
        if is_same:
            return SavedLayout(old.layout, section, observed.chosen.scope, self.topology)
        own = Section(as_config(old.layout), "adopted", taint=section.taint)
        return SavedLayout(old.layout, own, f"adopted from {source}", self.topology)

    def keep(self, saved: SavedLayout) -> None:
        """Write a layout, if it is another, and make it the node's. Raises StateError."""
        if saved != self.saved:
            self._files.write_layout(saved)
        self.saved = saved

    def replace(self, saved: SavedLayout) -> None:
        """Make a layout the node's that a change of pools has written."""
        self.saved = saved

    def forget(self) -> None:
        """Delete the layout of a node that is not selected any more. Raises StateError."""
        self._files.delete_layout()

    @property
    def changed(self) -> str:
        """In which way the machine is another one than the saved layout was made for; "" if it is not."""
        return difference(self.topology, self.saved.topology) if self.saved is not None else ""

    @functools.cached_property
    def outside(self) -> CpuSet:
        """CPUs that the agent's container may not use, and so no other container may: those that the node keeps from pods."""
        return self.topology.cpus - affinity.allowed(self.topology.cpus)

    def _compute(self, chosen: Chosen, observed: Observed) -> Layout:
        return layout.for_section(chosen.section, self.topology, observed.labels, self.outside)
