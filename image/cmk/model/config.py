"""Configuration of nodes as the chart writes it into ConfigMaps, and the choice of the section that holds for one node.

Precedence is host > group > default. Helm has merged the scopes already, so the choice is a look-up: a host's section for its group, or
the group's section, or the default.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from typing import Annotated, Literal, TypeVar

import msgspec

_T = TypeVar("_T")
SHARDS = 16


class ConfigError(ValueError):
    """A configuration that cannot be used; the text names the place and the value."""


class PoolConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What one pool asks for: whole physical cores, or ``rest`` for every core in no other pool."""

    cores: Annotated[int, msgspec.Meta(ge=0)] | Literal["rest"]
    exclusive: bool = False
    mode: Literal["packed", "spread"] = "packed"


class Section(msgspec.Struct, frozen=True):
    """One node's whole configuration. ``hash`` is computed by Helm and echoed by the agent, never recomputed."""

    pools: dict[str, PoolConfig]
    hash: str
    taint: bool = True
    paused: bool = False


class Selection(msgspec.Struct, frozen=True):
    """Which nodes are CMK nodes: the union of a label selector and names, or all."""

    selector: dict[str, str] = {}
    names: tuple[str, ...] = ()
    all: bool = False

    def matches(self, node: str, labels: Mapping[str, str]) -> bool:
        """Whether a node of this name with these labels is selected."""
        by_label = bool(self.selector) and all(labels.get(key) == value for key, value in self.selector.items())
        return self.all or node in self.names or by_label


class Group(msgspec.Struct, frozen=True):
    """Configuration of all nodes whose labels match; the highest weight wins, then name order."""

    section: Section
    match_labels: dict[str, str] = msgspec.field(name="matchLabels", default_factory=dict)
    weight: int = 0


class ClusterConfig(msgspec.Struct, frozen=True):
    """The ConfigMap that every agent reads: selection, default and groups."""

    selection: Selection
    default: Section
    groups: dict[str, Group] = {}


class Host(msgspec.Struct, frozen=True):
    """A host's section for each group it can be in; with ``group`` it names its own and has that section alone."""

    sections: dict[str, Section]
    group: str = ""


class Chosen(msgspec.Struct, frozen=True):
    """The section that holds for one node and the scope it came from (``default``, ``groups.X``, ``hosts.X``)."""

    section: Section
    scope: str


def shard_of(host: str) -> int:
    """The hosts ConfigMap that holds a host: ``adler32sum host | mod 16`` in Helm, the same number here."""
    return zlib.adler32(host.encode()) % SHARDS


def parse_cluster(text: str | bytes) -> ClusterConfig:
    """Read ``config.json``; raises ConfigError."""
    return _decode(text, ClusterConfig, "config.json")


def parse_hosts(text: str | bytes) -> dict[str, Host]:
    """Read ``hosts.json``; raises ConfigError."""
    return _decode(text, dict[str, Host], "hosts.json")


def choose(config: ClusterConfig, hosts: Mapping[str, Host], node: str, labels: Mapping[str, str]) -> Chosen:
    """Pick the section of a node; raises ConfigError when a host names a group that does not exist."""
    host = hosts.get(node)
    group = host.group if host and host.group else _matching_group(config, labels)
    if host is not None:
        section = host.sections.get(group)
        if section is None:
            raise ConfigError(f"hosts.{node} has no section for group {group!r}; has {sorted(host.sections)}")
        return Chosen(section, f"hosts.{node}")
    if group:
        return Chosen(config.groups[group].section, f"groups.{group}")
    return Chosen(config.default, "default")


def _matching_group(config: ClusterConfig, labels: Mapping[str, str]) -> str:
    matching = [
        name
        for name, group in config.groups.items()
        if group.match_labels and all(labels.get(key) == value for key, value in group.match_labels.items())
    ]
    return min(matching, key=lambda name: (-config.groups[name].weight, name), default="")


def _decode(text: str | bytes, kind: type[_T], place: str) -> _T:
    try:
        return msgspec.json.decode(text, type=kind)
    except (msgspec.DecodeError, msgspec.ValidationError) as error:
        raise ConfigError(f"{place}: {error}") from error
