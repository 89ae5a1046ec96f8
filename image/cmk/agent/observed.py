"""What the agent knows of its node from the API server: one immutable snapshot per event."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import msgspec

from cmk.kube.client import Json
from cmk.kube.node import labels
from cmk.model import config
from cmk.model.config import Chosen, ConfigError, Selection
from cmk.model.pods import Pod


class Observed(msgspec.Struct, frozen=True):
    """``node`` and ``report`` are raw objects, None when there is none or when it is not known: ``report_known`` and ``pods_known`` tell.

    ``report_events`` counts what the watch has said of the report, so that a report that is gone once more makes a difference.
    ``pods`` are those bound to the node, by uid; before they are known, those that an earlier agent knew. ``other_managers`` names other
    managers of CPUs on the node. ``selection``, and ``chosen``, the section that holds for this node, are None while they are not known;
    ``error`` says why a configuration cannot be used. ``labels_used`` are keys of labels by which the configuration chooses.
    """

    node: Json | None = None
    report: Json | None = None
    report_known: bool = False
    report_events: int = 0
    pods: Mapping[str, Pod] = {}
    pods_known: bool = False
    other_managers: str = ""
    selection: Selection | None = None
    chosen: Chosen | None = None
    error: str = ""
    labels_used: frozenset[str] = frozenset()

    @property
    def labels(self) -> dict[str, str]:
        """Labels of the node."""
        return labels(self.node) if self.node is not None else {}

    @property
    def active_pods(self) -> list[Pod]:
        """Pods that have not ended."""
        return [pod for pod in self.pods.values() if not pod.terminal]


def with_configuration(observed: Observed, name: str, cluster: str | None, shards: Iterable[str | None] | None) -> Observed:
    """``observed`` of the node ``name`` with its configuration parsed.

    ``cluster`` is the text of config.json, None while it is not known. ``shards`` are texts of hosts.json, each None if there is no such
    ConfigMap; None while one of them is not known.
    """
    selection, chosen, error, used = None, None, "", frozenset[str]()
    try:
        if cluster is not None:
            parsed = config.parse_cluster(cluster)
            selection, used = parsed.selection, parsed.labels_used
            if shards is not None and observed.node is not None:
                hosts = {host: value for text in shards if text for host, value in config.parse_hosts(text).items()}
                chosen = config.choose(parsed, hosts, name, observed.labels)
    except ConfigError as problem:
        error = str(problem)
    return msgspec.structs.replace(observed, selection=selection, chosen=chosen, error=error, labels_used=used)
