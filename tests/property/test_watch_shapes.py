"""Whatever the API server says, in whatever shape: what is known stays right or in doubt, and no event ends the agent."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, cast

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cmk.agent.options import Options
from cmk.agent.watches import Watches
from cmk.kube import watch
from cmk.kube.client import Api
from cmk.kube.watch import Follower, Source
from cmk.model.config import ClusterConfig, PoolConfig, Section, Selection

OPTIONS = Options("node1", "ns", "config", "hosts", *[Path("/nowhere")] * 4)
KEYS = [
    *("metadata", "name", "uid", "namespace", "resourceVersion", "labels", "annotations", "spec", "status", "data", "containers"),
    *("initContainers", "resources", "limits", "requests", "image", "taints", "capacity", "phase", "kind", "conditions"),
    *("volumes", "hostPath", "path", "securityContext", "privileged", "ownerReferences", "args"),
    *("cmk.intel.com/exclusive-cores", "cmk.intel.com/on-move", "kubernetes.io/hostname", "config.json", "hosts.json"),
]
TEXTS = st.sampled_from(["", "a", "node1", "1", "9E", "-1", "{}", "[]", "Pod", "\ud800", "9" * 400])
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | TEXTS | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(KEYS), inner, max_size=4),
    max_leaves=10,
)
SECTION = Section({"infra": PoolConfig("rest")}, "h")
CONFIG = msgspec.json.encode(ClusterConfig(Selection(all=True), SECTION)).decode()
GOOD: dict[str, dict[str, Any]] = {
    "Node": {"metadata": {"name": "node1", "resourceVersion": "1", "labels": {"a": "b"}}, "spec": {}, "status": {}},
    "Pod": {
        "metadata": {"name": "p", "namespace": "ns", "uid": "u", "resourceVersion": "1"},
        "spec": {
            "containers": [{"image": "cpusetter", "securityContext": {"privileged": True}}],
            "volumes": [{"hostPath": {"path": "/sys"}}],
        },
        "status": {"phase": "Running"},
    },
    "ConfigMap": {"metadata": {"name": "config", "resourceVersion": "1"}, "data": {"config.json": CONFIG, "hosts.json": "{}"}},
    "NodeReport": {"metadata": {"name": "node1", "resourceVersion": "1"}, "status": {"conditions": [{"type": "Ready"}]}},
}


@st.composite
def nearly(draw: st.DrawFn, kind: str) -> Any:  # noqa: ANN401
    """A good object with something else in one place."""

    def change(value: Any) -> Any:  # noqa: ANN401
        if not isinstance(value, dict) or not value or draw(st.booleans()):
            return draw(JSON)
        key = draw(st.sampled_from(sorted(value)))
        return {**value, key: change(value[key])}

    return change(GOOD[kind])


PATHS = {
    "Node": "/api/v1/nodes",
    "Pod": "/api/v1/pods",
    "ConfigMap": "/api/v1/namespaces/ns/configmaps",
    "NodeReport": "/apis/cmk.intel.com/v1/cmk-nodereports",
}
KINDS = {path: kind for kind, path in PATHS.items()}


class Server:
    """Tells what it is told to, then the truth."""

    def __init__(self) -> None:
        self.lists: dict[str, list[Any]] = {}
        self.watches: dict[str, list[Any]] = {}

    def get(self, path: str, **_: str) -> Any:  # noqa: ANN401
        return (
            self.lists[path].pop(0)
            if self.lists.get(path)
            else {"metadata": {"resourceVersion": "1"}, "items": [GOOD[KINDS[path]]]}
        )

    def page(self, path: str, keep: Callable[[Any], Any], **_: str) -> Any:  # noqa: ANN401
        listed = self.get(path)
        items = listed.get("items") if isinstance(listed, dict) else None
        return {**listed, "items": [keep(item) for item in items]} if isinstance(items, list) else listed

    def watch(self, path: str, _: int, **__: str) -> Iterator[Any]:
        yield from self.watches.pop(path, [])
        yield {"type": "MODIFIED", "object": GOOD[KINDS[path]]}


def followed(server: Server) -> tuple[Watches, list[Follower]]:
    """Watches, and their streams, which go on only when the test says so."""
    followers: list[Follower] = []

    def start(api: Api, name: str, source: Source, emit: Any) -> Follower:  # noqa: ANN401
        followers.append(Follower(api, source, emit, sleep=lambda _: None))
        return followers[-1]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(watch, "start", start)
        watches = Watches(cast(Api, server), OPTIONS, lambda: None)
        watches.start()
        return watches, followers


@given(st.data(), st.sampled_from(sorted(GOOD)))
def test_no_object_of_any_shape_ends_the_agent_or_hides_the_others(data: st.DataObject, kind: str) -> None:
    path, odd = PATHS[kind], data.draw(JSON | nearly(kind))
    server = Server()
    server.lists[path] = [data.draw(st.just({"metadata": {"resourceVersion": "1"}, "items": [odd, GOOD[kind]]}) | JSON)]
    server.watches[path] = [
        {"type": data.draw(st.sampled_from(["ADDED", "MODIFIED", "DELETED", "BOOKMARK", "ERROR"])), "object": odd}
    ]

    async def run() -> None:
        errors: list[Any] = []
        asyncio.get_running_loop().set_exception_handler(lambda _, context: errors.append(context))
        watches, followers = followed(server)
        for _ in range(4):
            for follower in followers:
                follower.round()
            await asyncio.sleep(0)
        assert errors == []
        assert watches.trouble == ""
        assert watches.observed.pods["u"].name == "p"
        assert watches.observed.labels == {"a": "b"}
        assert watches.observed.chosen is not None
        assert watches.observed.report == GOOD["NodeReport"]

    asyncio.run(run())


@given(st.lists(JSON | nearly("Pod"), max_size=3))
def test_no_pod_of_any_shape_hides_the_others(odd: list[Any]) -> None:
    async def run() -> None:
        server = Server()
        server.lists[PATHS["Pod"]] = [{"metadata": {"resourceVersion": "1"}, "items": [*odd, GOOD["Pod"], *odd]}]
        watches, followers = followed(server)
        for follower in followers:
            follower.round()
        await asyncio.sleep(0)
        assert "u" in watches.observed.pods
        assert [item["metadata"]["uid"] for item in await watches.list_pods()] == ["u"]

    asyncio.run(run())
