from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from itertools import pairwise
from pathlib import Path
from typing import Any
from unittest import mock

import pytest

from cmk.agent.observed import Observed
from cmk.agent.options import Options
from cmk.agent.publisher import (
    FIRST_RETRY,
    LAST_RETRY,
    MOST_EVENTS,
    REPORTS_AT_ONCE,
    REPORTS_PER_MINUTE,
    SECONDS_BETWEEN_REPORTS,
    Pace,
    Publisher,
    Retries,
)
from cmk.agent.wakeups import Wakeups
from cmk.agent.watches import Watches
from cmk.kube import reports
from cmk.kube.client import ApiError
from cmk.model.pods import Pod
from cmk.model.report import Reduction, Refusal
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
    return 200, {"metadata": {}, "items": list(items)}


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
        self.refusals: list[Refusal] = []
        self.wakeups = Wakeups()
        self.watches = Watches(self.cluster, options, self.wakeups.publish.wake)
        self.publisher = Publisher(self.cluster, "node1", self.watches, self.wakeups, lambda _: None, self._report)

    def _report(self, _: Observed, stored: dict[str, Any] | None, refusal: Refusal) -> dict[str, Any]:
        self.refusals.append(refusal)
        return {"spec": {"text": self.text if refusal.reduction is Reduction.NONE else refusal.reduction.name}}

    def stored(self, text: str) -> bool:
        return bool(self.cluster.report) and self.cluster.report["spec"]["text"] == text

    def watched(self, text: str) -> bool:
        report = self.watches.observed.report
        return report is not None and report["spec"]["text"] == text

    async def until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(20):
            while not condition():
                await asyncio.sleep(0.01)


def on_reporting(
    root: Path, scenario: Callable[[Reporting], Awaitable[None]], make: Callable[[Path], Reporting] = Reporting
) -> None:
    async def run() -> None:
        reporting = make(root)
        reporting.watches.start()
        work = asyncio.create_task(reporting.publisher.run())
        try:
            await scenario(reporting)
        finally:
            work.cancel()

    asyncio.run(run())


def test_no_event_is_lost_for_one_that_is_dropped_while_it_is_sent(tmp_path: Path) -> None:
    publisher = Reporting(tmp_path).publisher
    sent: list[str] = []

    async def run() -> None:
        def send(*_: object, **__: object) -> None:
            if not sent:
                loop.call_soon_threadsafe(publisher.queue_event, "Reason", "newest")
            sent.append(str(_[3]))

        loop = asyncio.get_running_loop()
        for number in range(MOST_EVENTS):
            publisher.queue_event("Reason", str(number))
        with mock.patch("cmk.kube.events.send", send):
            await publisher._send_events()

    asyncio.run(run())
    assert sent == [*map(str, range(MOST_EVENTS)), "newest"]


def test_a_report_is_written_again_when_it_changes_or_is_deleted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cmk.agent.publisher.SECONDS_BETWEEN_REPORTS", 0.01)
    monkeypatch.setattr("cmk.agent.publisher.REPORTS_AT_ONCE", 100)

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


def refusing(statuses: dict[str, ApiError]) -> Callable[[str, str], None]:
    """An API server that refuses reports and events for as long as ``statuses`` has an error for them."""

    def refuse(_: str, path: str) -> None:
        what = "event" if path.endswith("/events") else "report" if path.startswith(reports.PATH) else ""
        if what in statuses:
            raise statuses[what]

    return refuse


REFUSALS = [
    ApiError("cannot unmarshal number", 400),
    ApiError("limit is 3145728", 413),
    ApiError("spec: Invalid value", 422),
    ApiError("etcdserver: request is too large", 500),
    ApiError("rpc error: trying to send message larger than max", 500),
]


class Smaller(Reporting):
    """The API server takes a report only with a certain reduction."""

    takes = Reduction.NONE
    error = REFUSALS[0]

    def _report(self, observed: Observed, stored: dict[str, Any] | None, refusal: Refusal) -> dict[str, Any]:
        def refuse(method: str, path: str) -> None:
            if path.startswith(reports.PATH) and method in {"create", "replace"} and refusal.reduction < self.takes:
                raise self.error

        self.cluster.refuse = refuse
        return super()._report(observed, stored, refusal)


@pytest.mark.parametrize("takes", list(Reduction)[1:])
@pytest.mark.parametrize("error", REFUSALS, ids=lambda error: f"{error.status} {error}")
def test_a_report_that_is_refused_is_followed_by_a_reduced_one(tmp_path: Path, error: ApiError, takes: Reduction) -> None:
    async def scenario(reporting: Reporting) -> None:
        await reporting.until(lambda: reporting.stored(takes.name))
        assert sorted({refusal.reduction for refusal in reporting.refusals}) == list(Reduction)[: takes + 1]
        assert reporting.refusals[-1].text == str(error)

    def made(root: Path) -> Reporting:
        reporting = Smaller(root)
        reporting.takes, reporting.error = takes, error
        return reporting

    on_reporting(tmp_path, scenario, made)


def test_after_a_while_the_whole_report_is_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cmk.agent.publisher.SECONDS_OF_REDUCTION", 0.01)
    monkeypatch.setattr("cmk.agent.publisher.SECONDS_BETWEEN_REPORTS", 0)
    monkeypatch.setattr("cmk.agent.publisher.REPORTS_AT_ONCE", 100)

    async def scenario(reporting: Reporting) -> None:
        assert isinstance(reporting, Smaller)
        await reporting.until(lambda: reporting.stored("SHARED_TASKS"))
        reporting.takes = Reduction.NONE
        await reporting.until(lambda: reporting.stored("first"))

    def made(root: Path) -> Reporting:
        reporting = Smaller(root)
        reporting.takes = Reduction.SHARED_TASKS
        return reporting

    on_reporting(tmp_path, scenario, made)


@pytest.mark.parametrize("error", [*REFUSALS, ApiError("not yours", 403), ApiError("down", 503), ApiError("no server")])
def test_events_do_not_wait_for_a_report_that_is_refused(tmp_path: Path, error: ApiError) -> None:
    async def scenario(reporting: Reporting) -> None:
        reporting.cluster.refuse = refusing({"report": error})
        for message in ("one", "two", "three"):
            reporting.publisher.queue_event("Reason", message)
            await reporting.until(lambda: bool(reporting.cluster.events))
            assert [event["message"] for event in reporting.cluster.events] == [message]
            reporting.cluster.events.clear()

    on_reporting(tmp_path, scenario)


def test_a_report_does_not_wait_for_an_event_that_cannot_be_sent(tmp_path: Path) -> None:
    async def scenario(reporting: Reporting) -> None:
        reporting.cluster.refuse = refusing({"event": ApiError("down", 503)})
        reporting.publisher.queue_event("Reason", "message")
        await reporting.until(lambda: reporting.stored("first"))

    on_reporting(tmp_path, scenario)


def test_a_failure_is_tried_again_half_as_often_each_time() -> None:
    async def scenario() -> None:
        loop = asyncio.get_running_loop()
        times: list[float] = []
        now = [loop.time()]
        loop.time = lambda: now[0]  # type: ignore[method-assign]

        async def fail() -> None:
            times.append(now[0])
            raise ApiError("down", 503)

        retries = Retries(fail, Wakeups())
        for _ in range(6000):
            await retries.attempt()
            now[0] += 0.1
        pauses = [later - earlier for earlier, later in pairwise(times)]
        wanted = [min(FIRST_RETRY * 2**number, LAST_RETRY) for number in range(len(pauses))]
        assert all(wait / 2 <= pause <= wait + 0.2 for pause, wait in zip(pauses, wanted, strict=True))
        assert len(times) < 600 / (LAST_RETRY / 2) + 8

    asyncio.run(scenario())


def writes_at(wanted: Iterable[float]) -> list[float]:
    """When reports are written that have changed at these times, on a clock of its own."""
    pace, written, now = Pace(), [], 0.0
    for time in wanted:
        now = max(now, time)
        if (wait := pace.wait(now)) > 0:
            now += wait
        pace.count(now)
        written.append(now)
    return written


def test_a_report_that_changes_all_the_time_is_written_so_often_a_minute() -> None:
    written = writes_at([0.0] * 1000)
    assert min(later - earlier for earlier, later in pairwise(written)) >= SECONDS_BETWEEN_REPORTS
    by_minute = [sum(begin <= time < begin + 60 for time in written) for begin in written[:-50]]
    assert max(by_minute) <= REPORTS_PER_MINUTE + REPORTS_AT_ONCE
    assert by_minute[100:] == [REPORTS_PER_MINUTE] * len(by_minute[100:])


def test_a_few_changes_after_some_quiet_are_written_soon() -> None:
    first, *later = writes_at([0.0, *[1000.0] * REPORTS_AT_ONCE])
    assert (first, later) == (0.0, [1000.0 + number * SECONDS_BETWEEN_REPORTS for number in range(REPORTS_AT_ONCE)])


def test_at_churn_the_publisher_keeps_the_pace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The report changes at each wake-up, and somebody deletes it at once."""

    async def run() -> None:
        loop, reporting, now, written = asyncio.get_running_loop(), Reporting(tmp_path), 0.0, list[float]()

        def put(*_: object) -> dict[str, Any]:
            written.append(now)
            return {}

        monkeypatch.setattr("cmk.kube.reports.put", put)
        monkeypatch.setattr(reporting.wakeups.publish, "wake_in", mock.Mock())
        monkeypatch.setattr(loop, "time", lambda: now)
        for number in range(1200):
            now = number / 2
            reporting.text = str(number)
            reporting.watches.observed = Observed(report_known=True, report_events=number)
            await reporting.publisher._write_report()
        monkeypatch.undo()
        assert len(written) <= 10 * REPORTS_PER_MINUTE + REPORTS_AT_ONCE
        assert len(reporting.refusals) == len(written), "a report is made that is not written"

    asyncio.run(run())
