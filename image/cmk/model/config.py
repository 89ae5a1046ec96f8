"""The configuration of all nodes as the chart writes it into ConfigMaps, and the choice of the section for one node.

Precedence is host > group > default. Helm has merged the scopes already, so the choice is a look-up: a host's section for its group, else
the group's section, else the default.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Mapping
from typing import Annotated, Literal, TypeVar

import msgspec

from cmk.model import cpuset
from cmk.model.cpuset import CpuSet, CpuSetError
from cmk.model.errors import CmkError
from cmk.model.isolation_config import Isolation

_T = TypeVar("_T")
Preference = Literal["sst-bf", "sst-cp"]
SHARDS = 16
_FEATURE_LABELS: dict[str, Preference] = {
    "feature.node.kubernetes.io/cpu-power.sst_bf.enabled": "sst-bf",
    "feature.node.kubernetes.io/cpu-power.sst_cp.enabled": "sst-cp",
}
HOSTNAME_LABEL = "kubernetes.io/hostname"
# Labels that count under every configuration.
BUILT_IN_LABELS = frozenset({HOSTNAME_LABEL, *_FEATURE_LABELS})
REST = "rest"
REMAINING = -1
AUTO = "auto"

Count = Annotated[int, msgspec.Meta(ge=0)]
CoreId = Annotated[int, msgspec.Meta(ge=0)]
CpuId = CoreId
# "rest", or a kernel list with more than one number: "3" could mean three cores or core 3.
CoresText = Annotated[str, msgspec.Meta(pattern=r"^(rest|[0-9]+[-,][-0-9,:/]*)$")]
CpusText = Annotated[str, msgspec.Meta(pattern=r"^[0-9][-0-9,:/]*$")]
Cores = Annotated[int, msgspec.Meta(ge=-1)] | CoresText | tuple[CoreId, ...] | dict[str, Count]


class ConfigError(CmkError):
    """A configuration that is not valid; the text names the place and the value."""


class PoolConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The request of one pool: ``cores`` or ``cpus``, never both.

    ``cores`` is a number of physical cores, -1 for all that other pools leave, ``rest`` for every CPU in no other pool, a list or range of
    core numbers, or numbers of cores by socket. ``cpus`` are logical CPUs. With ``prefer``, cores that SST-BF or SST-CP distinguishes come
    first.
    """

    cores: Cores | None = None
    cpus: CpuId | CpusText | None = None
    exclusive: bool = False
    mode: Literal["packed", "spread"] = "packed"
    prefer: Preference | None = None

    def __post_init__(self) -> None:
        if (self.cores is None) == (self.cpus is None):
            raise ValueError("a pool has either cores or cpus")
        try:
            _ = self.named_cores, self.named_cpus
        except CpuSetError as error:
            raise ValueError(str(error)) from error

    @property
    def named_cores(self) -> frozenset[int] | None:
        """Core numbers if ``cores`` lists them, else None."""
        if isinstance(self.cores, str) and self.cores != REST:
            return cpuset.parse(self.cores)
        return frozenset(self.cores) if isinstance(self.cores, tuple) else None

    @property
    def named_cpus(self) -> CpuSet | None:
        """Logical CPUs if ``cpus`` lists them, else None."""
        return None if self.cpus is None else cpuset.parse(str(self.cpus))

    @property
    def count(self) -> int | None:
        """Number of cores, summed over sockets; None when it depends on the machine."""
        if isinstance(self.cores, dict):
            return sum(self.cores.values())
        return self.cores if isinstance(self.cores, int) and self.cores >= 0 else None

    @property
    def absent(self) -> bool:
        """Whether the pool has 0 cores, which means that the node does not have it."""
        return self.count == 0


class Section(msgspec.Struct, frozen=True):
    """One node's whole configuration. ``hash`` is computed by Helm; the agent copies it and never computes it.

    ``reserved`` is a CPU list or ``auto``; ``origins`` maps each value (``shared.cores``) to the scope that set it; the pools of at most
    ``max_unavailable`` nodes change at a time, 0 for no limit.
    """

    pools: dict[str, PoolConfig]
    hash: str
    taint: bool = True
    paused: bool = False
    reserved: str = ""
    origins: dict[str, str] = {}
    isolation: Isolation = Isolation()
    max_unavailable: Count = msgspec.field(name="maxUnavailable", default=0)

    def __post_init__(self) -> None:
        if self.reserved != AUTO:
            try:
                cpuset.parse(self.reserved)
            except CpuSetError as error:
                raise ValueError(f"reserved.cpus: {error}") from error

    def same_pools(self, other: Section) -> bool:
        """Whether both ask for the same layout."""
        return (self.pools, self.reserved) == (other.pools, other.reserved)

    def values(self) -> list[str]:
        """Each value with its scope, as the NodeReport has them: ``shared.cores=2 from hosts.worker-0``."""
        values: dict[str, object] = {"taint": self.taint, "paused": self.paused}
        if self.reserved:
            values["reserved.cpus"] = self.reserved
        for name, pool in self.pools.items():
            settings = {"cores": pool.cores, "cpus": pool.cpus, "mode": pool.mode, "prefer": pool.prefer}
            values |= {f"{name}.{key}": value for key, value in settings.items() if value is not None}
        values |= {f"isolation.{layer}": value for layer, value in self.isolation.values().items()}
        return [f"{key}={_plain(value)} from {self.origins.get(key, 'built-in')}" for key, value in sorted(values.items())]


class Selection(msgspec.Struct, frozen=True):
    """The nodes on which cmk runs: those that match a label selector and those with the names, or all."""

    selector: dict[str, str] = {}
    names: tuple[str, ...] = ()
    all: bool = False

    def matches(self, node: str, labels: Mapping[str, str]) -> bool:
        """Whether a node of this name with these labels is selected."""
        by_label = bool(self.selector) and all(labels.get(key) == value for key, value in self.selector.items())
        return self.all or node in self.names or by_label


class Group(msgspec.Struct, frozen=True):
    """The configuration of all nodes whose labels match (any of several values per label).

    Of several groups that match a node, the highest ``weight`` wins, then the first by name.
    """

    section: Section
    match_labels: dict[str, str | tuple[str, ...]] = msgspec.field(name="matchLabels", default_factory=dict)
    weight: int = 0

    def matches(self, labels: Mapping[str, str]) -> bool:
        """Whether a node with these labels is in the group."""
        return bool(self.match_labels) and all(
            labels.get(key) in ((value,) if isinstance(value, str) else value) for key, value in self.match_labels.items()
        )


class ClusterConfig(msgspec.Struct, frozen=True):
    """The content of the ConfigMap that every agent reads: selection, default and groups."""

    selection: Selection
    default: Section
    groups: dict[str, Group] = {}

    @property
    def labels_used(self) -> frozenset[str]:
        """Keys of the labels by which it chooses nodes and sections."""
        return frozenset(self.selection.selector).union(*(group.match_labels for group in self.groups.values()))


class Host(msgspec.Struct, frozen=True):
    """A host's section for each group that it can be in ("" for none). With ``group`` the host names its group and has one section.

    ``scope`` is the host's name in the chart's values. ``alone`` means that the host ignores groups (the rule of StarlingX's charts).
    """

    sections: dict[str, Section]
    group: str = ""
    alone: bool = False
    scope: str = ""


class Chosen(msgspec.Struct, frozen=True):
    """The section of one node and its scope (``default``, ``groups.X``, ``hosts.X``)."""

    section: Section
    scope: str


def with_preference(pools: Mapping[str, PoolConfig], labels: Mapping[str, str]) -> dict[str, PoolConfig]:
    """The pools, with ``prefer`` set from the node's labels of Node Feature Discovery where a pool has none.

    Raises ConfigError when the node has the labels of both SST-BF and SST-CP.
    """
    features = [how for label, how in _FEATURE_LABELS.items() if labels.get(label, "").lower() == "true"]
    if len(features) > 1:
        raise ConfigError(
            f"the node is labelled for both SST-BF and SST-CP, which exclude each other: remove one of {', '.join(_FEATURE_LABELS)}"
        )
    return {
        name: msgspec.structs.replace(pool, prefer=features[0]) if features and pool.prefer is None else pool
        for name, pool in pools.items()
    }


def shard_of(host: str) -> int:
    """The number of the hosts ConfigMap with this host's sections: ``adler32sum host | mod 16`` in Helm."""
    return zlib.adler32(host.encode()) % SHARDS


def names_of(node: str, labels: Mapping[str, str]) -> list[str]:
    """Names under which ``hosts`` may list a node: its own, then its hostname label."""
    return list(dict.fromkeys((node, labels.get(HOSTNAME_LABEL, node))))


def parse_cluster(text: str | bytes) -> ClusterConfig:
    """Read the text of ``config.json``; raises ConfigError."""
    return _decode(text, ClusterConfig, "config.json")


def parse_hosts(text: str | bytes) -> dict[str, Host]:
    """Read the text of ``hosts.json``: host → sections; raises ConfigError."""
    return _decode(text, dict[str, Host], "hosts.json")


def choose(config: ClusterConfig, hosts: Mapping[str, Host], node: str, labels: Mapping[str, str]) -> Chosen:
    """The section of a node; raises ConfigError when a host has no section for its group."""
    name = next((name for name in names_of(node, labels) if name in hosts), node)
    host = hosts.get(name)
    group = host.group if host and host.group else _matching_group(config.groups, labels)
    if host is not None:
        section = host.sections.get("" if host.alone else group)
        if section is None:
            raise ConfigError(f"hosts.{name} has no section for group {group!r}; it has sections for {sorted(host.sections)}")
        return Chosen(section, host.scope or f"hosts.{name}")
    if group:
        return Chosen(config.groups[group].section, group if group.startswith("conf.") else f"groups.{group}")
    return Chosen(config.default, "default")


def _plain(value: object) -> str:
    return value if isinstance(value, str) else msgspec.json.encode(value).decode()


def _matching_group(groups: Mapping[str, Group], labels: Mapping[str, str]) -> str:
    matching: Iterable[str] = (name for name, group in groups.items() if group.matches(labels))
    return min(matching, key=lambda name: (-groups[name].weight, name), default="")


def _decode(text: str | bytes, kind: type[_T], place: str) -> _T:
    try:
        return msgspec.json.decode(text, type=kind)
    except (msgspec.DecodeError, msgspec.ValidationError) as error:
        raise ConfigError(f"{place}: {error}") from error
