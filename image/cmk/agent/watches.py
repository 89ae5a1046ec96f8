"""The watches of this node's object, pods, configuration and report at the API server. Threads follow them, the event loop reads."""

from __future__ import annotations

import asyncio
import functools
import logging
from collections.abc import Callable, Iterable
from typing import Any

from msgspec.structs import replace

from cmk.agent.observed import Observed, with_configuration
from cmk.agent.options import Options
from cmk.agent.pod_cache import PodCache
from cmk.agent.slim_pod import slim
from cmk.isolation.conflicts import conflict_of, manager_of
from cmk.kube import reports, shapes, watch
from cmk.kube.client import Api, Json
from cmk.kube.lists import Lister
from cmk.kube.node import labels
from cmk.kube.watch import Follower, Source
from cmk.model import config
from cmk.model.pods import Pod

log = logging.getLogger(__name__)

_PODS = "/api/v1/pods"


class Watches:
    """``observed`` is what the watches have brought so far; ``on_event`` is called on the event loop after each event that replaces it.

    ``unreadable`` counts events that could not be read.
    """

    def __init__(self, api: Api, options: Options, on_event: Callable[[], None]) -> None:
        self._api = api
        self._options = options
        self._on_event = on_event
        self._cluster_text: str | None = None
        self._shards: set[int] = set()
        self._hosts_texts: dict[int, str | None] = {}
        self._managers: dict[str, str] = {}
        self._own_dirs = [str(directory) for directory in options.service_dirs]
        self._followers: dict[str, Follower] = {}
        self._unread: dict[str, str] = {}
        self._logged: set[str] = set()
        self.unreadable = 0
        self._lister = Lister(api, "Pod", _PODS, f"spec.nodeName={options.node}", slim)
        self.pods = PodCache(self._list_items, self._on_pods_listed)
        self.observed = Observed()

    def start(self) -> None:
        """Begin to follow everything."""
        node = self._options.node
        for name, source, handle in (
            ("node", Source("Node", "/api/v1/nodes", f"metadata.name={node}", shapes.NodeShape), self._on_node),
            # One malformed pod must not hide the others: the cache sorts them out.
            ("pods", Source("Pod", _PODS, f"spec.nodeName={node}", keep=slim), self._on_pods),
            ("config", self._configmap(self._options.config), self._on_config),
            ("report", Source("NodeReport", reports.PATH, f"metadata.name={node}", shapes.NamedShape), self._on_report),
        ):
            self._follow(name, source, handle)
        self._follow_shards([node])

    @property
    def trouble(self) -> str:
        """Why ``observed`` may not be what the API server has now; "" if it is."""
        followed = ((name, self._unread.get(name) or follower.trouble()) for name, follower in self._followers.items())
        return "; ".join(f"{name}: {text}" for name, text in followed if text)

    def remember(self, pods: Iterable[Pod]) -> None:
        """Start from the pods that an earlier agent knew, unless the API server has listed them already."""
        if not self.observed.pods_known:
            self.pods.remember(pods)
            self.observed = replace(self.observed, pods=self.pods.all)

    async def list_pods(self) -> list[Json]:
        """Pods bound to the node, now; raises ApiError. Those that cannot be read are left out."""
        return [item for item, _ in self.pods.read(await self._list_items())]

    async def _list_items(self) -> list[Any]:
        _, items = await asyncio.to_thread(self._lister.read)
        return items

    def _configmap(self, name: str) -> Source:
        path = f"/api/v1/namespaces/{self._options.namespace}/configmaps"
        return Source("ConfigMap", path, f"metadata.name={name}", shapes.ConfigMapShape)

    def _follow_shards(self, names: list[str]) -> None:
        """Follow the hosts ConfigMaps that may name this node: nearly always one, two when its hostname label differs from its name."""
        for shard in {config.shard_of(name) for name in names} - self._shards:
            self._shards.add(shard)
            name = f"{shard:02d}"
            source = self._configmap(f"{self._options.hosts_prefix}-{name}")
            self._follow(f"hosts-{name}", source, functools.partial(self._on_hosts, shard))

    def _follow(self, name: str, source: Source, handle: Callable[[watch.Event], Observed]) -> None:
        self._followers[name] = watch.start(self._api, name, source, self._on_loop(name, handle))

    def _on_loop(self, name: str, handle: Callable[[watch.Event], Observed]) -> Callable[[watch.Event], None]:
        loop = asyncio.get_running_loop()

        def on_event(event: watch.Event) -> None:
            if isinstance(event, watch.Lost):
                log.warning("%s: %s", name, event.reason)
                return
            try:
                self.observed = handle(event)
            except Exception as error:  # what the API server says is data: it ends no agent
                self._doubt(name, f"{type(error).__name__} in what the API server says of it: {error}")
                return
            self._unread.pop(name, None)
            self._on_event()

        def emit(event: watch.Event) -> None:
            if not loop.is_closed():
                loop.call_soon_threadsafe(on_event, event)

        return emit

    def _doubt(self, name: str, text: str) -> None:
        """Note that an event of a stream could not be read: what is known of it stays, in doubt until the next that can be."""
        self._unread[name] = text
        self.unreadable += 1
        if name not in self._logged:
            self._logged.add(name)
            log.exception("%s: %s", name, text)

    def _on_node(self, event: watch.Event) -> Observed:
        before, node = self.observed, _single(event)
        observed = replace(before, node=node)
        if node is not None:
            self._follow_shards(config.names_of(self._options.node, labels(node)))
        # A node's status changes every few minutes, its labels seldom; parsing the configuration of a large cluster takes a while.
        is_same = (node is None) == (before.node is None) and observed.labels == before.labels
        return observed if is_same else self._configured(observed)

    def _on_report(self, event: watch.Event) -> Observed:
        events = self.observed.report_events + 1
        return replace(self.observed, report=_single(event), report_known=True, report_events=events)

    def _on_config(self, event: watch.Event) -> Observed:
        self._cluster_text = _text(_single(event), "config.json") or self._cluster_text
        return self._configured(self.observed)

    def _on_hosts(self, shard: int, event: watch.Event) -> Observed:
        self._hosts_texts[shard] = _text(_single(event), "hosts.json")
        return self._configured(self.observed)

    def _configured(self, observed: Observed) -> Observed:
        shards = self._hosts_texts.values() if self._hosts_texts.keys() == self._shards else None
        return with_configuration(observed, self._options.node, self._cluster_text, shards)

    def _on_pods(self, event: watch.Event) -> Observed:
        match event:
            case watch.Listed(items=items):
                self._managers = self._managers_of(self.pods.listed(items))
            case watch.Changed(item=item):
                self._managers |= self._managers_of(self.pods.updated(item))
            case watch.Deleted(item=item):
                self._managers.pop(self.pods.deleted(item), None)
        return replace(self.observed, pods=self.pods.all, pods_known=True, other_managers=conflict_of(self._managers.values()))

    def _managers_of(self, items: Iterable[Json]) -> dict[str, str]:
        return {item["metadata"]["uid"]: manager_of(item, self._own_dirs) for item in items}

    def _on_pods_listed(self) -> None:
        self.observed = replace(self.observed, pods=self.pods.all)
        self._on_event()


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
