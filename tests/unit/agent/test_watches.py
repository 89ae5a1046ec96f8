from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, cast

import pytest

from cmk.agent.options import Options
from cmk.agent.watches import ClusterView, see
from cmk.kube.client import Api
from cmk.model.config import shard_of

OPTIONS = Options("n", "ns", "conf", "hosts", Path("/o"), Path("/r"), Path("/s"), Path("/l"))
SHARD = f"hosts-{shard_of('n'):02d}"


def section(cores: int) -> dict[str, Any]:
    return {"pools": {"exclusive": {"cores": cores, "exclusive": True}}, "hash": f"h{cores}"}


CONFIG = {
    "selection": {"selector": {"cmk-node": "enabled"}},
    "default": section(1),
    "groups": {"big": {"matchLabels": {"size": "big"}, "section": section(2)}},
}
HOSTS = {"n": {"group": "", "sections": {"": section(3), "big": section(4)}}}


class FakeApi:
    """Objects by the name their watch selects; a watch tells nothing and never ends."""

    def __init__(self, **objects: dict[str, Any]) -> None:
        self.objects = objects

    def get(self, _: str, fieldSelector: str) -> dict[str, Any]:
        name = fieldSelector.split("=")[1]
        kind = "pods" if fieldSelector.startswith("spec.") else name.replace("-", "_")
        found = self.objects.get(kind)
        return {"metadata": {"resourceVersion": "1"}, "items": [found] if found else []}

    def watch(self, _: str, __: int, **___: str) -> Iterator[dict[str, Any]]:
        threading.Event().wait()  # in a daemon thread
        return iter(())


def configmap(key: str, value: object) -> dict[str, Any]:
    return {"data": {key: value if isinstance(value, str) else json.dumps(value)}}


def node(**labels: str) -> dict[str, Any]:
    return {"metadata": {"name": "n", "labels": labels}}


def view_of(until: Callable[[ClusterView], bool], **objects: dict[str, Any]) -> ClusterView:
    """A view once it has seen what it should."""

    async def run() -> ClusterView:
        api = FakeApi(**objects)
        changed = asyncio.Event()
        view = ClusterView(cast("Api", api), OPTIONS, changed.set, changed.set)
        view.start()
        async with asyncio.timeout(20):
            while not (until(view) and view.report_known and view.pods_known):
                changed.clear()
                await changed.wait()
        return view

    return asyncio.run(run())


@pytest.mark.parametrize(
    ("labels", "hosts", "scope", "hash_"),
    [
        ({}, None, "default", "h1"),
        ({"size": "big"}, None, "groups.big", "h2"),
        ({}, HOSTS, "hosts.n", "h3"),
        ({"size": "big"}, HOSTS, "hosts.n", "h4"),
        ({}, {"other": HOSTS["n"]}, "default", "h1"),
    ],
)
def test_the_section_that_holds(labels: dict[str, str], hosts: dict[str, Any] | None, scope: str, hash_: str) -> None:
    objects = {"n": node(**labels), "conf": configmap("config.json", CONFIG)}
    if hosts:
        objects[SHARD.replace("-", "_")] = configmap("hosts.json", hosts)
    view = view_of(lambda view: see(view).chosen is not None and any(view._hosts_texts.values()) == bool(hosts), **objects)
    chosen = see(view).chosen
    assert chosen is not None
    assert (chosen.scope, chosen.section.hash) == (scope, hash_)


def test_a_host_may_go_by_its_hostname_label() -> None:
    shard = f"hosts_{shard_of('host-7'):02d}"
    assert shard != SHARD.replace("-", "_")
    hosts = configmap("hosts.json", {"host-7": {"sections": {"": section(5)}}})
    labelled = {"metadata": {"name": "n", "labels": {"kubernetes.io/hostname": "host-7"}}}
    view = view_of(lambda view: see(view).chosen is not None, n=labelled, conf=configmap("config.json", CONFIG), **{shard: hosts})
    chosen = see(view).chosen
    assert chosen is not None
    assert (chosen.scope, chosen.section.hash) == ("hosts.host-7", "h5")
    assert see(view).labels == {"kubernetes.io/hostname": "host-7"}


def test_a_configuration_that_cannot_be_read_is_told() -> None:
    view = view_of(lambda view: bool(see(view).error), n=node(), conf=configmap("config.json", "{"))
    assert see(view).error.startswith("config.json: ")
    assert view.selection is None


def test_without_configuration_nothing_holds_and_nothing_is_selected() -> None:
    view = view_of(lambda view: view.node is not None, n=node())
    assert see(view).chosen is None
    assert view.selection is None


def test_the_selection_is_told() -> None:
    view = view_of(lambda view: view.selection is not None, n=node(), conf=configmap("config.json", CONFIG))
    assert view.selection is not None
    assert view.selection.matches("n", {"cmk-node": "enabled"})
    assert not view.selection.matches("n", {})
