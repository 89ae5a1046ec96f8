from __future__ import annotations

import socket
import threading

import pytest
from kubernetes.client.configuration import Configuration

from cmk.kube import reports
from cmk.kube.client import MERGE_PATCH, Api, ApiError
from tests.unit.kube.apiserver import serving


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


def test_a_report_is_created_when_there_is_none() -> None:
    with serving((201, {"made": True})) as server:
        assert reports.put(server.api, "n", {"spec": {}}, None) == {"made": True}
    assert server.seen[0][:2] == ("POST", reports.PATH)
    assert server.seen[0][3] == {"apiVersion": "cmk.intel.com/v1", "kind": "NodeReport", "spec": {}, "metadata": {"name": "n"}}


def test_a_report_that_somebody_changed_is_read_again() -> None:
    now = {"metadata": {"resourceVersion": "8"}}
    with serving((409, {"message": "changed"}), (200, {"items": [now]}), (200, {"done": True})) as server:
        assert reports.put(server.api, "n", {"spec": {}}, {"metadata": {"resourceVersion": "7"}}) == {"done": True}
    assert [request[0] for request in server.seen] == ["PUT", "GET", "PUT"]
    assert server.seen[2][3] is not None
    assert server.seen[2][3]["metadata"] == {"name": "n", "resourceVersion": "8"}


def test_a_report_that_somebody_deleted_is_made_again() -> None:
    with serving((404, {"message": "gone"}), (200, {"items": []}), (201, {"done": True})) as server:
        assert reports.put(server.api, "n", {}, {"metadata": {"resourceVersion": "7"}}) == {"done": True}
    assert [request[0] for request in server.seen] == ["PUT", "GET", "POST"]


def test_a_report_that_keeps_changing_is_left_to_the_next_time() -> None:
    answers = [(409, {"message": "x"}), (200, {"items": [{"metadata": {"resourceVersion": "1"}}]})] * 3
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
