"""The node's layout: read from state, made once from configuration, kept on purpose."""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable

import msgspec

from cmk.agent.files import StateFiles
from cmk.agent.watches import Seen
from cmk.host import affinity
from cmk.legacy.takeover import TakenOver, as_config
from cmk.model import layout
from cmk.model.config import ConfigError, Section
from cmk.model.cpuset import CpuSet
from cmk.model.layout import Layout, LayoutError, SavedLayout
from cmk.model.reasons import Obstacle
from cmk.model.topology import Topology

log = logging.getLogger(__name__)


class Pending(msgspec.Struct, frozen=True):
    """Why a configuration is not applied, and its hash."""

    reason: Obstacle
    text: str
    hash: str


class NodeLayout:
    """Holds the saved layout, or why there is none (``reason``, ``problem``).

    ``tell`` gets a reason and a message for whoever watches the node's events.
    """

    def __init__(self, node: str, files: StateFiles, topology: Topology, tell: Callable[[str, str], None]) -> None:
        self.name = node
        self._tell = tell
        self._files = files
        self.topology = topology
        self.saved: SavedLayout | None = None
        self.reason: Obstacle | None = None
        self.problem = ""
        self.pending: Pending | None = None

    def resume(self, *, in_use: bool) -> None:
        """Read what an earlier agent made. One that names CPUs the machine has no longer is kept only while tasks run on it.

        Raises StateError.
        """
        self.saved = self._files.read_layout()
        if self.saved is None or in_use:
            return
        if not all(pool.cpus <= self.topology.cpus for pool in self.saved.layout.pools.values()):
            log.warning("the saved layout names CPUs that are not online any more: making a new one")
            self.saved = None

    def make(self, seen: Seen) -> SavedLayout | None:
        """Make the layout from the configuration as seen; None with ``reason`` and ``problem`` set when that cannot be done.

        Raises StateError when it cannot be kept.
        """
        if seen.error:
            self.refuse(Obstacle.CONFIG_INVALID, seen.error)
        if seen.chosen is None:
            return None
        section = seen.chosen.section
        try:
            made = self._compute(section, seen)
        except ConfigError as error:
            self.refuse(Obstacle.CONFIG_INVALID, str(error))
            return None
        except LayoutError as error:
            self.refuse(Obstacle.LAYOUT_IMPOSSIBLE, f"{error}; set hosts.{self.name}.pools in the chart's values")
            return None
        self.saved = SavedLayout(made, section, seen.chosen.scope, self.topology)
        self._files.write_layout(self.saved)
        self.reason, self.problem = None, ""
        for warning in made.warnings:
            self._tell("LayoutWarning", warning)
        return self.saved

    def follow(self, seen: Seen) -> None:
        """Keep note of a newer configuration that asks for the same pools. Raises StateError."""
        saved, chosen = self.saved, seen.chosen
        if saved is None or chosen is None or (chosen.section, chosen.scope) == (saved.section, saved.scope):
            return
        if chosen.section.same_pools(saved.section):
            self.saved = msgspec.structs.replace(saved, section=chosen.section, scope=chosen.scope)
            self._files.write_layout(self.saved)

    def wanted(self, seen: Seen) -> SavedLayout | None:
        """What the configuration asks for instead of the layout there is; None when it is the same, not known or impossible, which
        ``pending`` tells.
        """
        saved, chosen = self.saved, seen.chosen
        if saved is None or chosen is None:
            return None
        if chosen.section.same_pools(saved.section):
            self.pending = None
            return None
        try:
            made = self._compute(chosen.section, seen)
        except ConfigError as error:
            self.pend(Obstacle.CONFIG_INVALID, str(error), chosen.section)
        except LayoutError as error:
            self.pend(Obstacle.LAYOUT_IMPOSSIBLE, f"{error}; the pools stay as they were", chosen.section)
        else:
            return SavedLayout(made, chosen.section, chosen.scope, self.topology)
        return None

    def takes(self, wanted: SavedLayout) -> bool:
        """Whether another configuration comes to the same pools as there are; then it is kept. Raises StateError."""
        if self.saved is None or wanted.layout.pools != self.saved.layout.pools:
            return False
        self._files.write_layout(wanted)
        self.took(wanted)
        return True

    def took(self, saved: SavedLayout) -> None:
        """The pools have been changed, files included."""
        self.saved, self.pending = saved, None
        for warning in saved.layout.warnings:
            self._tell("LayoutWarning", warning)

    def pend(self, reason: Obstacle, text: str, section: Section) -> None:
        """The layout stays as it is although the configuration asks for another; told once."""
        if (self.pending is None or text != self.pending.text) and reason != Obstacle.WAITING:
            log.warning("%s: %s", reason, text)
            self._tell(reason, text)
        self.pending = Pending(reason, text, section.hash)

    def _compute(self, section: Section, seen: Seen) -> Layout:
        return layout.for_section(section, self.topology, seen.labels, self.outside)

    @functools.cached_property
    def outside(self) -> CpuSet:
        """CPUs that the agent's container may not use, and so no other: those that the node keeps from pods."""
        return self.topology.cpus - affinity.allowed(self.topology.cpus)

    def take_over(self, found: TakenOver, source: str, seen: Seen) -> SavedLayout | None:
        """Keep the layout that an older CMK made; None while the configuration is not known. Raises StateError.

        It counts as configured when the configuration would have made the same; else it stands as it is, and the report says what differs.
        """
        if seen.chosen is None:
            return None
        section = seen.chosen.section
        try:
            same = self._compute(section, seen).pools == found.layout.pools
        except (ConfigError, LayoutError):
            same = False
        if not same:
            section = Section(as_config(found.layout), "adopted", taint=section.taint)
        scope = seen.chosen.scope if same else f"adopted from {source}"
        self.saved = SavedLayout(found.layout, section, scope, self.topology)
        self._files.write_layout(self.saved)
        self.reason, self.problem = None, ""
        log.info("took over the pools of %s", source)
        return self.saved

    def forget(self) -> None:
        """The node is ours no longer."""
        self._files.delete_layout()

    def refuse(self, reason: Obstacle, problem: str) -> None:
        """Nobody is served, or the layout stays as it is, for this reason; told once."""
        if problem != self.problem:
            log.error("%s: %s", reason, problem)
            self._tell(reason, problem)
        self.reason, self.problem = reason, problem
