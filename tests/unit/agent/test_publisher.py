from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any, cast

import pytest

from cmk.agent.publisher import Publisher
from cmk.agent.watches import ClusterView
from cmk.kube import reports
from cmk.kube.client import ApiError
from cmk.model.pods import Pod
from tests.unit.kube.apiserver import FakeServer, serving

NAME = "cmk.intel.com/exclusive-cores"


NODE = {
    "metadata": {"name": "n", "resourceVersion": "5", "labels": {"cmk.intel.com/cmk-node": "true", "a": "b"}},
    "spec": {"taints": [{"key": "cmk", "value": "true", "effect": "NoSchedule"}, {"key": "other", "effect": "NoExecute"}]},
    "status": {"capacity": {NAME: "4", "cpu": "8"}, "allocatable": {NAME: "4", "cpu": "8"}},
}
CONFLICT = (409, {"message": "changed"})


def bound(cores: int, phase: str = "Running") -> dict[str, Any]:
    return {
        "metadata": {"uid": "u", "name": "p", "namespace": "ns"},
        "spec": {"containers": [{"name": "c", "resources": {"requests": {NAME: str(cores)}}}]},
        "status": {"phase": phase},
    }


def withdraw(server: FakeServer, *pods: dict[str, Any]) -> bool:
    async def list_pods() -> list[dict[str, Any]]:
        return list(pods)

    view = cast("ClusterView", SimpleNamespace(list_pods=list_pods))
    return asyncio.run(Publisher(server.api, "n", view, lambda: None, lambda: None).withdraw())


@pytest.mark.parametrize("pods", [(), (bound(2, "Succeeded"),), (bound(0),)])
def test_a_node_that_leaves_gets_everything_taken_back(pods: tuple[dict[str, Any], ...]) -> None:
    with serving((200, NODE), (200, NODE), (200, NODE), (200, {})) as server:
        assert withdraw(server, *pods)
    status, marks, report = server.seen[1:]
    assert status[:2] == ("PATCH", "/api/v1/nodes/n/status")
    assert status[3] == {"status": {"capacity": {NAME: None}, "allocatable": {NAME: None}}}
    assert marks[:2] == ("PATCH", "/api/v1/nodes/n")
    assert marks[3] == {
        "metadata": {"labels": {"cmk.intel.com/cmk-node": None}, "resourceVersion": "5"},
        "spec": {"taints": [{"key": "other", "effect": "NoExecute"}]},
    }
    assert report[:2] == ("DELETE", f"{reports.PATH}/n")


def test_a_node_whose_pods_need_the_resource_keeps_it() -> None:
    with serving((200, NODE)) as server:
        assert not withdraw(server, bound(1))
    assert len(server.seen) == 1


def test_a_node_that_somebody_changes_meanwhile_is_looked_at_again() -> None:
    with serving((200, NODE), (200, NODE), CONFLICT, (200, NODE), (200, NODE), (200, NODE), (200, {})) as server:
        assert withdraw(server)
    assert [request[0] for request in server.seen].count("PATCH") == 4


def test_a_node_that_keeps_changing_is_given_up() -> None:
    with serving(*[(200, NODE), (200, NODE), CONFLICT] * 5) as server, pytest.raises(ApiError, match="409 changed"):
        withdraw(server)


def test_what_is_told_becomes_an_event_once_and_in_turn() -> None:
    async def run(server: FakeServer) -> None:
        view = cast("ClusterView", SimpleNamespace(node=None, report_known=False))
        publisher = Publisher(server.api, "n", view, lambda: None, lambda: None)
        publisher.tell("LayoutWarning", "one")
        publisher.tell("LayoutWarning", "two" * 1000)
        running = asyncio.create_task(publisher.run())
        async with asyncio.timeout(20):
            while len(server.seen) < 3:
                await asyncio.sleep(0.01)
        running.cancel()

    with serving((500, {}), (201, {}), (201, {})) as server:
        asyncio.run(run(server))
    bodies = [body for _, _, _, body, _ in server.seen]
    assert [body["message"][:3] for body in bodies if body] == ["one", "one", "two"]
    assert {(method, path) for method, path, *_ in server.seen} == {("POST", "/api/v1/namespaces/default/events")}
    last = bodies[2]
    assert last is not None
    assert len(last["message"]) == 1024
    assert last["involvedObject"] == {"apiVersion": "v1", "kind": "Node", "name": "n", "uid": "n"}


def test_an_event_that_cannot_be_told_holds_up_no_other() -> None:
    async def run(server: FakeServer) -> None:
        view = cast("ClusterView", SimpleNamespace(node=None, report_known=False, pods_known=False))
        publisher = Publisher(server.api, "n", view, lambda: None, lambda: None)
        publisher.tell("First", "to a pod", warning=False, pod=Pod("u", "going", "p", {}))
        publisher.tell("Second", "to the node")
        work = asyncio.get_running_loop().create_task(publisher.run())
        async with asyncio.timeout(10):
            while len(server.seen) < 2:
                await asyncio.sleep(0.01)
        work.cancel()

    with serving((403, {"message": "namespace going is being terminated"}), (201, {})) as server:
        asyncio.run(run(server))
    assert [(path, body["reason"]) for _, path, _, body, _ in server.seen if body] == [
        ("/api/v1/namespaces/going/events", "First"),
        ("/api/v1/namespaces/default/events", "Second"),
    ]
