from __future__ import annotations

import queue
import threading

from cmk.kube import watch
from cmk.kube.watch import Changed, Deleted, Event, Listed, Lost
from tests.unit.kube.apiserver import serving

ONE = {"metadata": {"name": "a", "resourceVersion": "1"}}
TWO = {"metadata": {"name": "a", "resourceVersion": "2"}}


def listing(version: str, *items: dict[str, object]) -> tuple[int, object]:
    return 200, {"metadata": {"resourceVersion": version}, "items": list(items)}


def events(*answers: tuple[int, object], count: int) -> tuple[list[Event], list[dict[str, str]]]:
    """The first events of a stream, and the queries that were asked for them. One event more parks the stream's thread, which has no end:
    it must not meet what later tests do.
    """
    got: queue.Queue[Event] = queue.Queue()
    left = count

    def emit(event: Event) -> None:
        nonlocal left
        if not left:
            threading.Event().wait()
        left -= 1
        got.put(event)

    with serving(*answers) as server:
        watch.start(server.api, "test", "/x", "metadata.name=a", emit)
        found = [got.get(timeout=20) for _ in range(count)]
        return found, [request[2] for request in server.seen]


def test_lists_then_follows() -> None:
    stream = [{"type": "MODIFIED", "object": TWO}, {"type": "DELETED", "object": TWO}, {"type": "ADDED", "object": ONE}]
    found, asked = events(listing("1", ONE), (200, stream), count=4)
    assert found == [Listed([ONE]), Changed(TWO), Deleted(TWO), Changed(ONE)]
    assert asked[0] == {"fieldSelector": "metadata.name=a"}
    assert asked[1]["resourceVersion"] == "1"


def test_goes_on_from_the_last_bookmark() -> None:
    bookmark = {"type": "BOOKMARK", "object": {"metadata": {"resourceVersion": "50"}}}
    found, asked = events(listing("1"), (200, [bookmark]), (200, [{"type": "ADDED", "object": ONE}]), count=2)
    assert found == [Listed([]), Changed(ONE)]
    assert asked[2]["resourceVersion"] == "50"


def test_lists_again_without_a_word_when_its_version_is_forgotten() -> None:
    gone = {"type": "ERROR", "object": {"code": 410, "message": "too old"}}
    found, _ = events(listing("1", ONE), (200, [gone]), listing("9", TWO), count=2)
    assert found == [Listed([ONE]), Listed([TWO])]


def test_says_that_it_is_lost_and_heals() -> None:
    found, _ = events((500, {"message": "down"}), listing("1", ONE), count=2)
    assert isinstance(found[0], Lost)
    assert "500 down" in found[0].reason
    assert found[1] == Listed([ONE])
