"""The node's layout: read from state, made once from configuration, kept on purpose."""

from __future__ import annotations

import logging
from pathlib import Path

import msgspec

from cmk.agent.cluster import Seen
from cmk.host import state
from cmk.model import layout
from cmk.model.config import Section
from cmk.model.layout import Layout, LayoutError
from cmk.model.topology import Topology

log = logging.getLogger(__name__)


class SavedLayout(msgspec.Struct, frozen=True):
    """The layout and what it was made from: it outlives agents and reboots, and changes only on purpose."""

    layout: Layout
    section: Section
    scope: str
    topology: Topology


class NodeLayout:
    """Holds the saved layout, or why there is none (``reason``, ``problem``)."""

    def __init__(self, node: str, path: Path, topology: Topology) -> None:
        self._node = node
        self._path = path
        self.topology = topology
        self.saved: SavedLayout | None = None
        self.reason = ""
        self.problem = ""

    def resume(self, *, in_use: bool) -> None:
        """Read what an earlier agent made. One that names CPUs the machine has no longer is kept only while tasks run on it.

        Raises StateError.
        """
        self.saved = state.read(self._path, SavedLayout)
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
            self._refuse("ConfigInvalid", seen.error)
        if seen.chosen is None:
            return None
        section = seen.chosen.section
        try:
            made = layout.compute(self.topology, section.pools)
        except LayoutError as error:
            self._refuse("LayoutImpossible", f"{error}; set hosts.{self._node}.pools in the chart's values")
            return None
        self.saved = SavedLayout(made, section, seen.chosen.scope, self.topology)
        state.write(self._path, self.saved, durable=True)
        self.reason = self.problem = ""
        return self.saved

    def forget(self) -> None:
        """The node is ours no longer."""
        self._path.unlink(missing_ok=True)

    def _refuse(self, reason: str, problem: str) -> None:
        if problem != self.problem:
            log.error("%s: %s", reason, problem)
        self.reason, self.problem = reason, problem
