"""An API server in memory that lists, watches and stores objects, as one agent meets it."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator
from typing import Any

import msgspec

from cmk.agent.options import Options
from cmk.kube import reports
from cmk.kube.client import ApiError, Json
from cmk.model.config import ClusterConfig, Group, Host, Section, Selection
from tests.unit.certificates.objects import Objects

NODES, PODS = "/api/v1/nodes", "/api/v1/pods"
ALL = Selection(all=True)


class Cluster(Objects):
    """``log`` has, in order, what the agent asked and wrote besides its report, events and Leases; ``refuse`` may raise ApiError first."""

    def __init__(self, options: Options, **labels: str) -> None:
        super().__init__()
        self.options = options
        self.log: list[str] = []
        self.events: list[Json] = []
        self.refuse: Callable[[str, str], None] = lambda method, path: None
        self._watches: list[tuple[str, str, queue.SimpleQueue[Json | ApiError]]] = []
        self._history: list[tuple[str, Json]] = []
        self._lock = threading.RLock()
        self.put_at(NODES, {"metadata": {"name": options.node, "labels": labels}, "spec": {}, "status": {}})

    # What a test does to the cluster

    def put_at(self, collection: str, item: Json) -> None:
        """Create or replace an object."""
        self.put(f"{collection}/{item['metadata']['name']}", item)

    def configure(self, default: Section, selection: Selection = ALL, **groups: Group) -> None:
        """Store the configuration of all nodes."""
        self.configure_text(msgspec.json.encode(ClusterConfig(selection, default, groups)).decode())

    def configure_text(self, text: str) -> None:
        """Store a text in the place of the configuration of all nodes."""
        self._put_configmap(self.options.config, "config.json", text)

    def configure_hosts(self, shard: int, **hosts: Host) -> None:
        """Store the sections of the hosts of a shard."""
        text = msgspec.json.encode({name.replace("_", "-"): host for name, host in hosts.items()}).decode()
        self._put_configmap(f"{self.options.hosts_prefix}-{shard:02d}", "hosts.json", text)

    def bind(self, *pods: Json) -> None:
        """Replace the pods that are bound to the node."""
        with self._lock:
            kept = {f"{PODS}/{pod['metadata']['name']}" for pod in pods}
            for path in [path for path in self.store if path.startswith(PODS) and path not in kept]:
                self.delete(path)
            for pod in pods:
                self.put_at(PODS, pod)

    def bind_unnoticed(self, pod: Json) -> None:
        """Bind a pod of which no watch tells."""
        with self._lock:
            super().put(f"{PODS}/{pod['metadata']['name']}", pod)

    def break_watches(self) -> None:
        """End every watch that is open."""
        with self._lock:
            for *_, stream in self._watches:
                stream.put(ApiError("the watch broke off"))
            self._watches.clear()

    def tell(self, collection: str, event: Any) -> None:  # noqa: ANN401
        """Send an event of whatever shape to the watches of a collection."""
        with self._lock:
            for path, _, stream in self._watches:
                if path == collection:
                    stream.put(event)

    @property
    def node(self) -> Json:
        return self.store[f"{NODES}/{self.options.node}"]

    @property
    def report(self) -> Json:
        return self.store.get(f"{reports.PATH}/{self.options.node}", {})

    def condition(self, kind: str) -> tuple[str, str]:
        """Status and reason of a condition in the report."""
        items = self.report.get("status", {}).get("conditions", [])
        return next(((item["status"], item["reason"]) for item in items if item["type"] == kind), ("", ""))

    # What the agent does with the API server

    def get(self, path: str, **params: str) -> Json:
        self.refuse("get", path)
        with self._lock:
            if "fieldSelector" not in params:
                return super().get(path)
            if path == PODS:
                self.log.append("list pods")
            items = [item for item in self.store if _matches(item, path, params["fieldSelector"])]
            return {
                "metadata": {"resourceVersion": str(self._version)},
                "items": [super(Cluster, self).get(item) for item in items],
            }

    def page(self, path: str, keep: Callable[[Any], Any], **params: str) -> Json:
        listed = self.get(path, **params)
        return {**listed, "items": [keep(item) for item in listed["items"]]}

    def watch(self, path: str, _: int, **params: str) -> Iterator[Json]:
        stream: queue.SimpleQueue[Json | ApiError] = queue.SimpleQueue()
        with self._lock:
            for where, event in self._history:
                newer = int(event["object"]["metadata"]["resourceVersion"]) > int(params["resourceVersion"])
                if newer and _matches(where, path, params["fieldSelector"]):
                    stream.put(event)
            self._watches.append((path, params["fieldSelector"], stream))
        while True:
            event = stream.get()  # blocks a daemon thread
            if isinstance(event, ApiError):
                raise event
            yield event

    def put(self, path: str, body: Json) -> Json:
        with self._lock:
            item = super().put(path, body)
            self._tell("MODIFIED", path, item)
            return item

    def create(self, path: str, body: Json) -> Json:
        self.refuse("create", path)
        if path.endswith("/events"):
            self.events.append(body)
            return body
        return self.put(f"{path}/{body['metadata']['name']}", body)

    def replace(self, path: str, body: Json) -> Json:
        self.refuse("replace", path)
        with self._lock:
            return super().replace(path, body)

    def patch(self, path: str, body: Json, kind: str) -> Json:
        self.refuse("patch", path)
        with self._lock:
            for name, value in (body.get("status", {}).get("capacity") or {}).items():
                self.log.append(f"advertise {name.split('/')[1]} {value}")
            return self.put(path.removesuffix("/status"), _merged(super().get(path.removesuffix("/status")), body))

    def delete(self, path: str) -> None:
        self.refuse("delete", path)
        with self._lock:
            item = self.store.get(path)
            super().delete(path)
            if item:
                self._version += 1
                self._tell("DELETED", path, {**item, "metadata": {**item["metadata"], "resourceVersion": str(self._version)}})

    def _put_configmap(self, name: str, key: str, text: str) -> None:
        collection = f"/api/v1/namespaces/{self.options.namespace}/configmaps"
        self.put_at(collection, {"metadata": {"name": name}, "data": {key: text}})

    def _tell(self, kind: str, path: str, item: Json) -> None:
        event = {"type": kind, "object": item}
        self._history.append((path, event))
        for collection, selector, stream in self._watches:
            if _matches(path, collection, selector):
                stream.put(event)


def _matches(path: str, collection: str, selector: str) -> bool:
    """All pods are bound to the one node."""
    kind, _, name = selector.partition("=")
    return path == f"{collection}/{name}" if kind == "metadata.name" else path.startswith(f"{collection}/")


def _merged(item: Any, patch: Any) -> Any:  # noqa: ANN401
    """A merge patch applied; lists are replaced."""
    if not isinstance(item, dict) or not isinstance(patch, dict):
        return patch
    changed = {key: _merged(item.get(key, {}), value) for key, value in patch.items() if value is not None}
    return {key: value for key, value in {**item, **changed}.items() if key not in patch or patch[key] is not None}


def unavailable(times: int, method: str, path: str = "") -> Callable[[str, str], None]:
    """For ``refuse``: an API server that fails so many times."""
    left = [times]

    def refuse(asked: str, where: str) -> None:
        if asked == method and path in where and left[0]:
            left[0] -= 1
            raise ApiError(f"{method} {where}: no API server")

    return refuse
