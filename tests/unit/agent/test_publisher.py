from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from cmk.agent.observed import Observed
from cmk.agent.options import Options
from cmk.agent.publisher import Publisher
from cmk.agent.wakeups import Wakeups
from cmk.agent.watches import Watches
from cmk.kube import reports
from cmk.kube.client import ApiError
from cmk.model.pods import Pod
from tests.unit.agent.cluster import Cluster
from tests.unit.agent.harness import options_in
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


def publisher_of(server: FakeServer) -> Publisher:
    watches = Watches(server.api, Options("n", "ns", "config", "hosts", *[Path("/nowhere")] * 4), lambda: None)
    return Publisher(server.api, "n", watches, Wakeups(), lambda _: None, lambda *_: None)


def pods(*items: dict[str, Any]) -> tuple[int, Any]:
    return 200, {"items": list(items)}


def withdraw(server: FakeServer) -> bool:
    return asyncio.run(publisher_of(server).withdraw())


@pytest.mark.parametrize("items", [(), (bound(2, "Succeeded"),), (bound(0),)])
def test_a_node_that_leaves_gets_everything_taken_back(items: tuple[dict[str, Any], ...]) -> None:
    with serving((200, NODE), pods(*items), (200, NODE), (200, NODE), (200, {})) as server:
        assert withdraw(server)
    status, marks, report = server.seen[2:]
    assert status[:2] == ("PATCH", "/api/v1/nodes/n/status")
    assert status[3] == {"status": {"capacity": {NAME: None}, "allocatable": {NAME: None}}}
    assert marks[:2] == ("PATCH", "/api/v1/nodes/n")
    assert marks[3] == {
        "metadata": {"labels": {"cmk.intel.com/cmk-node": None}, "resourceVersion": "5"},
        "spec": {"taints": [{"key": "other", "effect": "NoExecute"}]},
    }
    assert report[:2] == ("DELETE", f"{reports.PATH}/n")


def test_a_node_whose_pods_need_the_resource_keeps_it() -> None:
    with serving((200, NODE), pods(bound(1))) as server:
        assert not withdraw(server)
    assert [request[0] for request in server.seen] == ["GET", "GET"]


def test_a_node_that_somebody_changes_meanwhile_is_looked_at_again() -> None:
    with serving((200, NODE), pods(), (200, NODE), CONFLICT, (200, NODE), pods(), (200, NODE), (200, NODE), (200, {})) as server:
        assert withdraw(server)
    assert [request[0] for request in server.seen].count("PATCH") == 4


def test_a_node_that_keeps_changing_is_given_up() -> None:
    with serving(*[(200, NODE), pods(), (200, NODE), CONFLICT] * 5) as server, pytest.raises(ApiError, match="409 changed"):
        withdraw(server)


def test_what_is_told_becomes_an_event_once_and_in_turn() -> None:
    async def run(server: FakeServer) -> None:
        publisher = publisher_of(server)
        publisher.queue_event("LayoutWarning", "one")
        publisher.queue_event("LayoutWarning", "two" * 1000)
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
        publisher = publisher_of(server)
        publisher.queue_event("First", "to a pod", warning=False, pod=Pod("u", "going", "p", {}))
        publisher.queue_event("Second", "to the node")
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


class Reporting:
    """A publisher at work whose report says ``text``."""

    def __init__(self, root: Path) -> None:
        options = options_in(root)
        self.cluster = Cluster(options)
        self.text = "first"
        self.wakeups = Wakeups()
        self.watches = Watches(self.cluster, options, self.wakeups.publish.wake)
        self.publisher = Publisher(self.cluster, "node1", self.watches, self.wakeups, lambda _: None, self._report)

    def _report(self, _: Observed, stored: dict[str, Any] | None) -> dict[str, Any]:
        return {"spec": {"text": self.text}}

    def stored(self, text: str) -> bool:
        return bool(self.cluster.report) and self.cluster.report["spec"]["text"] == text

    def watched(self, text: str) -> bool:
        report = self.watches.observed.report
        return report is not None and report["spec"]["text"] == text

    async def until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(20):
            while not condition():
                await asyncio.sleep(0.01)


def on_reporting(root: Path, scenario: Callable[[Reporting], Awaitable[None]]) -> None:
    async def run() -> None:
        reporting = Reporting(root)
        reporting.watches.start()
        work = asyncio.create_task(reporting.publisher.run())
        try:
            await scenario(reporting)
        finally:
            work.cancel()

    asyncio.run(run())


def test_a_report_is_written_again_when_it_changes_or_is_deleted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cmk.agent.publisher.SECONDS_BETWEEN_REPORTS", 0.01)

    async def scenario(reporting: Reporting) -> None:
        await reporting.until(lambda: reporting.stored("first"))
        reporting.text = "second"
        reporting.wakeups.publish.wake()
        await reporting.until(lambda: reporting.stored("second"))
        for _ in range(3):
            reporting.cluster.delete(f"{reports.PATH}/node1")
            await reporting.until(lambda: reporting.stored("second"))
            await reporting.until(lambda: reporting.watched("second"))

    on_reporting(tmp_path, scenario)


def test_a_report_that_changes_at_once_waits_and_holds_up_no_event(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cmk.agent.publisher.SECONDS_BETWEEN_REPORTS", 1000)

    async def scenario(reporting: Reporting) -> None:
        await reporting.until(lambda: reporting.stored("first"))
        reporting.text = "second"
        reporting.publisher.queue_event("Reason", "message")
        await reporting.until(lambda: bool(reporting.cluster.events))
        assert reporting.stored("first")

    on_reporting(tmp_path, scenario)
