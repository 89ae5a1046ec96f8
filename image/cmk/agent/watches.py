"""What the API server says about this node: its object, its pods, its configuration, its report. Threads feed, the event loop reads."""

from __future__ import annotations

import asyncio
import functools
import logging
from collections.abc import Callable

import msgspec

from cmk.agent.options import Options
from cmk.agent.pod_cache import Pods
from cmk.isolation.conflicts import conflict_of, manager_of
from cmk.kube import reports, watch
from cmk.kube.client import Api, Json
from cmk.kube.node import labels
from cmk.model import config
from cmk.model.config import Chosen, ConfigError

log = logging.getLogger(__name__)

_PODS = "/api/v1/pods"


class ClusterView:
    """Latest knowledge; ``changed`` is called on the loop after anything but pods changed (pods call their own).

    ``node`` and ``report`` are raw objects or None; ``report_known`` tells "there is none" from "not looked yet".
    """

    def __init__(self, api: Api, options: Options, changed: Callable[[], None], pods_changed: Callable[[], None]) -> None:
        self._api = api
        self._options = options
        self._changed = changed
        self._cluster_text: str | None = None
        self._shards: set[int] = set()
        self._hosts_texts: dict[int, str | None] = {}
        self.node: Json | None = None
        self.report: Json | None = None
        self.report_known = False
        self.pods_known = False
        self._managers: dict[str, str] = {}
        self.pods = Pods(self.list_pods, pods_changed)

    def start(self) -> None:
        """Begin to follow everything."""
        node = self._options.node
        for name, path, selector, handle in (
            ("node", "/api/v1/nodes", f"metadata.name={node}", self._on_node),
            ("pods", _PODS, f"spec.nodeName={node}", self._on_pods),
            ("config", self._configmaps, f"metadata.name={self._options.config}", self._on_config),
            ("report", reports.PATH, f"metadata.name={node}", self._on_report),
        ):
            watch.start(self._api, name, path, selector, self._on_loop(name, handle))
        self._follow_shards([node])

    @property
    def _configmaps(self) -> str:
        return f"/api/v1/namespaces/{self._options.namespace}/configmaps"

    def _follow_shards(self, names: list[str]) -> None:
        """Follow the hosts ConfigMaps that may name this node: nearly always one, two when its hostname label differs from its name."""
        for shard in {config.shard_of(name) for name in names} - self._shards:
            self._shards.add(shard)
            selector = f"metadata.name={self._options.hosts_prefix}-{shard:02d}"
            handle = functools.partial(self._on_hosts, shard)
            watch.start(self._api, f"hosts-{shard:02d}", self._configmaps, selector, self._on_loop("hosts", handle))

    @property
    def selection(self) -> config.Selection | None:
        """Which nodes are selected, when known."""
        try:
            return config.parse_cluster(self._cluster_text).selection if self._cluster_text else None
        except ConfigError:
            return None

    def chosen(self) -> Chosen | None:
        """The section that holds for this node, or None while it is not known; raises ConfigError."""
        if self._cluster_text is None or self.node is None or self._hosts_texts.keys() != self._shards:
            return None
        hosts: dict[str, config.Host] = {}
        for text in self._hosts_texts.values():
            hosts |= config.parse_hosts(text) if text else {}
        return config.choose(config.parse_cluster(self._cluster_text), hosts, self._options.node, labels(self.node))

    @property
    def conflict(self) -> str:
        """Which other managers of CPUs run on the node, in words; empty when there are none."""
        return conflict_of(self._managers.values())

    def took(self, node: Json) -> None:
        """A newer node object came with the answer to a patch."""
        self.node = node

    async def list_pods(self) -> list[Json]:
        """Pods bound to the node, now; raises ApiError. Without a resourceVersion the answer comes from the quorum, not from a cache."""
        found = await asyncio.to_thread(self._api.get, _PODS, fieldSelector=f"spec.nodeName={self._options.node}")
        return list(found.get("items") or [])

    def _on_loop(self, name: str, handle: Callable[[watch.Event], None]) -> Callable[[watch.Event], None]:
        loop = asyncio.get_running_loop()

        def on_event(event: watch.Event) -> None:
            if isinstance(event, watch.Lost):
                log.warning("%s: %s", name, event.reason)
            else:
                handle(event)
            self._changed()

        def emit(event: watch.Event) -> None:
            if not loop.is_closed():
                loop.call_soon_threadsafe(on_event, event)

        return emit

    def _on_node(self, event: watch.Event) -> None:
        self.node = _single(event)
        if self.node is not None:
            self._follow_shards(config.names_of(self._options.node, labels(self.node)))

    def _on_report(self, event: watch.Event) -> None:
        self.report = _single(event)
        self.report_known = True

    def _on_config(self, event: watch.Event) -> None:
        self._cluster_text = _text(_single(event), "config.json") or self._cluster_text

    def _on_hosts(self, shard: int, event: watch.Event) -> None:
        self._hosts_texts[shard] = _text(_single(event), "hosts.json")

    def _on_pods(self, event: watch.Event) -> None:
        match event:
            case watch.Listed(items=items):
                self._managers = {item["metadata"]["uid"]: manager_of(item) for item in items}
                self.pods.listed(items)
                self.pods_known = True
            case watch.Changed(item=item):
                self._managers[item["metadata"]["uid"]] = manager_of(item)
                self.pods.updated(item)
            case watch.Deleted(item=item):
                self._managers.pop(item["metadata"]["uid"], None)
                self.pods.deleted(item)


def _single(event: watch.Event) -> Json | None:
    match event:
        case watch.Listed(items=items):
            return items[0] if items else None
        case watch.Changed(item=item):
            return item
    return None


def _text(configmap: Json | None, key: str) -> str | None:
    if configmap is None:
        return None
    text = (configmap.get("data") or {}).get(key)
    return text if isinstance(text, str) else None


class Seen(msgspec.Struct, frozen=True):
    """A section as the agent last saw it, or why it could not be read, and the node's labels then."""

    chosen: Chosen | None = None
    error: str = ""
    labels: dict[str, str] = {}


def see(view: ClusterView) -> Seen:
    """``chosen`` without the exception."""
    try:
        return Seen(view.chosen(), labels=dict(labels(view.node)) if view.node else {})
    except ConfigError as error:
        return Seen(error=str(error))
