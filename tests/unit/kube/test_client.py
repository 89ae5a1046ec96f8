from __future__ import annotations

import socket
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from kubernetes.client.configuration import Configuration
from kubernetes.config import incluster_config

from cmk.certificates import pki
from cmk.kube import client, reports
from cmk.kube.client import MERGE_PATCH, Api, ApiError, TooLongError
from cmk.kube.lists import whole
from tests.unit.kube.apiserver import FakeServer, serving


def test_a_patch_says_what_kind_it_is() -> None:
    with serving((200, {"kind": "Node"})) as server:
        assert server.api.patch("/api/v1/nodes/n", {"a": 1}, MERGE_PATCH) == {"kind": "Node"}
    assert server.seen == [("PATCH", "/api/v1/nodes/n", {}, {"a": 1}, MERGE_PATCH)]


def test_a_selector_is_quoted() -> None:
    with serving((200, {})) as server:
        server.api.get("/api/v1/pods", fieldSelector="spec.nodeName=a b&c")
    assert server.seen[0][2] == {"fieldSelector": "spec.nodeName=a b&c"}


def test_a_refusal_carries_status_and_the_servers_words() -> None:
    with serving((403, {"message": "not yours"})) as server, pytest.raises(ApiError, match="GET /x: 403 not yours") as caught:
        server.api.get("/x")
    assert caught.value.status == 403


def test_a_refusal_without_words() -> None:
    with serving((502, ["<html>"])) as server, pytest.raises(ApiError, match="502 <html>"):
        server.api.get("/x")


def test_an_unreadable_answer() -> None:
    with serving((200, ["{"])) as server, pytest.raises(ApiError, match="unreadable answer"):
        server.api.get("/x")


def test_no_server_at_all() -> None:
    with serving() as server:
        api = server.api
    with pytest.raises(ApiError, match="cannot reach the API server") as caught:
        api.get("/x")
    assert caught.value.status == 0


def test_deleting_what_is_gone_is_fine() -> None:
    with serving((404, {"message": "gone"}), (409, {"message": "busy"})) as server:
        server.api.delete("/x")
        with pytest.raises(ApiError, match="busy"):
            server.api.delete("/x")


def test_a_watch_gives_events_as_they_come() -> None:
    events = [{"type": "ADDED", "object": {"n": number}} for number in range(3)]
    with serving((200, [events[0], "", *events[1:]])) as server:
        assert list(server.api.watch("/x", 5)) == events
    assert server.seen[0][2] == {"watch": "true", "allowWatchBookmarks": "true", "timeoutSeconds": "5"}


def test_a_watch_that_breaks_says_so() -> None:
    with serving((200, ["nonsense"])) as server, pytest.raises(ApiError, match="watch of /x broke"):
        list(server.api.watch("/x", 5))


STORED = {"metadata": {"name": "n", "resourceVersion": "9"}}


def test_a_report_is_created_when_there_is_none() -> None:
    with serving((201, STORED)) as server:
        assert reports.put(server.api, "n", {"spec": {}}, None) == STORED
    assert server.seen[0][:2] == ("POST", reports.PATH)
    assert server.seen[0][3] == {"apiVersion": "cmk.intel.com/v1", "kind": "NodeReport", "spec": {}, "metadata": {"name": "n"}}


def test_a_report_that_somebody_changed_is_read_again() -> None:
    now = {"metadata": {"name": "n", "resourceVersion": "8"}}
    with serving((409, {"message": "changed"}), (200, {"items": [now]}), (200, STORED)) as server:
        assert reports.put(server.api, "n", {"spec": {}}, {"metadata": {"resourceVersion": "7"}}) == STORED
    assert [request[0] for request in server.seen] == ["PUT", "GET", "PUT"]
    assert server.seen[2][3] is not None
    assert server.seen[2][3]["metadata"] == {"name": "n", "resourceVersion": "8"}


def test_a_report_that_somebody_deleted_is_made_again() -> None:
    with serving((404, {"message": "gone"}), (200, {"items": []}), (201, STORED)) as server:
        assert reports.put(server.api, "n", {}, {"metadata": {"resourceVersion": "7"}}) == STORED
    assert [request[0] for request in server.seen] == ["PUT", "GET", "POST"]


def test_a_report_that_keeps_changing_is_left_to_the_next_time() -> None:
    answers = [(409, {"message": "x"}), (200, {"items": [STORED]})] * 3
    with serving(*answers) as server, pytest.raises(ApiError, match="changes faster than it can be written"):
        reports.put(server.api, "n", {}, {"metadata": {"resourceVersion": "0"}})


def test_a_server_that_hangs_up_without_an_answer() -> None:
    def hang_up() -> None:
        connection, _ = listener.accept()
        connection.recv(65536)
        connection.close()

    configuration = Configuration()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        configuration.host = f"http://127.0.0.1:{listener.getsockname()[1]}"
        thread = threading.Thread(target=hang_up)
        thread.start()
        with pytest.raises(ApiError, match=r"cannot reach the API server: .*closed connection") as caught:
            Api(configuration).get("/x")
        thread.join()
    assert caught.value.status == 0


@pytest.mark.parametrize("answer", ["[]", "[[1,2]]", "3", "null", '"x"', "[" * 100_000, '{"a":"\\ud800"}', "{'a': 1}"])
def test_an_answer_that_is_no_object(answer: str) -> None:
    with serving((200, [answer])) as server, pytest.raises(ApiError, match="GET /x: unreadable answer"):
        server.api.get("/x")


@pytest.mark.parametrize("line", ["[]", "3", "null", "[" * 100_000])
def test_a_line_of_a_watch_that_is_no_object(line: str) -> None:
    with serving((200, [line])) as server, pytest.raises(ApiError, match="watch of /x broke off"):
        list(server.api.watch("/x", 5))


@pytest.mark.parametrize("status", [200, 500])
def test_an_answer_without_end_is_not_read_to_its_end(monkeypatch: pytest.MonkeyPatch, status: int) -> None:
    monkeypatch.setattr(client, "MOST_ANSWER_BYTES", 1 << 20)
    with serving((status, [" " * (3 << 20)])) as server, pytest.raises(ApiError, match="longer than 1 MiB"):
        server.api.get("/x")


def test_a_page_that_is_too_long_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "MOST_PAGE_BYTES", 1 << 20)
    with serving((200, {"items": ["x" * (1 << 20)]})) as server, pytest.raises(TooLongError, match="longer than 1 MiB"):
        server.api.page("/x", whole)


@pytest.mark.parametrize(
    ("answer", "page"),
    [
        ({"metadata": {"continue": "a"}, "items": [1, {"b": []}]}, {"metadata": {"continue": "a"}, "items": ["1", "{'b': []}"]}),
        ({"items": None}, {"items": []}),
        ({"items": []}, {"items": []}),
        ({"kind": "Status"}, {"kind": "Status"}),
    ],
)
def test_a_page_has_what_is_kept_of_its_items(answer: Any, page: Any) -> None:  # noqa: ANN401
    with serving((200, answer)) as server:
        assert server.api.page("/x", str) == page


@pytest.mark.parametrize(
    "answer", ["[]", "null", '{"items":{}}', '{"items":["\\ud800"]}', '{"items":[' + "[" * 100_000, '{"items":[1']
)
def test_a_page_of_another_shape(answer: str) -> None:
    with serving((200, [answer])) as server, pytest.raises(ApiError, match="GET /x: unreadable answer"):
        server.api.page("/x", whole)


def test_an_event_without_end_is_not_read_to_its_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "MOST_EVENT_BYTES", 1 << 20)
    with serving((200, ["x" * (3 << 20)])) as server, pytest.raises(ApiError, match="an event is longer than 1 MiB"):
        list(server.api.watch("/x", 5))


def test_an_answer_that_comes_byte_by_byte_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "ANSWER_SECONDS", -1.0)
    with serving((200, {})) as server, pytest.raises(ApiError, match="it has not ended after"):
        server.api.get("/x")


def test_a_refusal_is_quoted_in_part() -> None:
    with serving((422, {"message": "x" * 10**6})) as server, pytest.raises(ApiError) as caught:
        server.api.get("/x")
    assert len(str(caught.value)) < 1100


@contextmanager
def pod(
    directory: Path, monkeypatch: pytest.MonkeyPatch, *answers: tuple[int, Any]
) -> Iterator[tuple[FakeServer, SimpleNamespace]]:
    """A pod with a service account, whose files are in ``directory``: an API server with TLS, and a clock for the account's token."""
    issued = pki.issue(["localhost"], datetime.now(UTC), timedelta(days=1))
    (directory / "server.pem").write_bytes(issued.cert + issued.key)
    (directory / "ca.crt").write_bytes(issued.ca)
    (directory / "token").write_text("first")
    clock = SimpleNamespace(now=datetime.now(UTC))
    fake = SimpleNamespace(datetime=SimpleNamespace(now=lambda: clock.now), timedelta=timedelta)
    monkeypatch.setattr(incluster_config, "SERVICE_TOKEN_FILENAME", str(directory / "token"))
    monkeypatch.setattr(incluster_config, "SERVICE_CERT_FILENAME", str(directory / "ca.crt"))
    monkeypatch.setattr(incluster_config, "datetime", fake)
    with serving(*answers) as server:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(directory / "server.pem")
        server.socket = context.wrap_socket(server.socket, server_side=True)
        monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "localhost")
        monkeypatch.setenv("KUBERNETES_SERVICE_PORT", str(server.server_port))
        yield server, clock


def test_a_ca_certificate_that_is_replaced_is_trusted_without_a_restart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pod(tmp_path, monkeypatch, (200, {"n": 1})):
        ca = tmp_path / "ca.crt"
        right = ca.read_bytes()
        ca.write_bytes(pki.issue(["localhost"], datetime.now(UTC), timedelta(days=1)).ca)
        api = client.in_cluster()
        with pytest.raises(ApiError, match=r"cannot reach the API server: .*CERTIFICATE_VERIFY_FAILED"):
            api.get("/x")
        (tmp_path / "ca.new").write_bytes(right)
        (tmp_path / "ca.new").rename(ca)
        assert api.get("/x") == {"n": 1}


def test_a_token_that_is_replaced_is_used_after_a_minute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pod(tmp_path, monkeypatch, (200, {}), (200, {})) as (server, clock):
        api = client.in_cluster()
        api.get("/x")
        (tmp_path / "token").write_text("second")
        clock.now += timedelta(seconds=61)
        api.get("/x")
        assert server.authorizations == ["bearer first", "bearer second"]
        (tmp_path / "token").unlink()
        clock.now += timedelta(seconds=61)
        with pytest.raises(ApiError, match="No such file"):
            api.get("/x")
