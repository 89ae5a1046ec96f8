from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cmk.kube import shapes, watch
from cmk.kube.client import Api, ApiError
from cmk.kube.watch import Changed, Deleted, Event, Follower, Listed, Lost, Source
from tests.unit.kube.apiserver import serving

ONE = {"metadata": {"name": "a", "resourceVersion": "1"}}
TWO = {"metadata": {"name": "a", "resourceVersion": "2"}}
SOURCE = Source("ConfigMap", "/x", "metadata.name=a", shapes.ConfigMapShape)
LIST = {"metadata": {"resourceVersion": "1"}, "items": [ONE]}
BOOKMARK = {"type": "BOOKMARK", "object": {"metadata": {"resourceVersion": "50"}}}
GONE = {"type": "ERROR", "object": {"code": 410, "message": "too old"}}
DOWN = ApiError("down", 500)


class Server:
    """An API server that answers in turn, and the time that passes meanwhile. The last answer is the one from then on.

    A watch is a list of events, with which it ends. Among them and in the place of an answer an exception is raised, and a number is
    seconds that pass.
    """

    def __init__(self, lists: list[Any], watches: list[Any], source: Source = SOURCE) -> None:
        self.lists, self.watches = lists, watches
        self.source, self.now = source, 0.0
        self.asked: list[tuple[float, dict[str, str]]] = []
        self.slept: list[float] = []
        self.events: list[Event] = []
        self.follower = Follower(cast(Api, self), source, self.events.append, lambda: self.now, self._sleep)

    def rounds(self, count: int) -> Server:
        for _ in range(count):
            self.follower.round()
        return self

    def page(self, _: str, keep: Callable[[Any], Any], **params: str) -> Any:  # noqa: ANN401
        assert keep is self.source.keep
        self.asked.append((self.now, params))
        (answer,) = self._play([self.lists.pop(0) if len(self.lists) > 1 else self.lists[0]])
        return answer

    def watch(self, _: str, seconds: int, **params: str) -> Iterator[Any]:
        assert watch.WATCH_SECONDS / 2 <= seconds <= watch.WATCH_SECONDS
        self.asked.append((self.now, params))
        yield from self._play(self.watches.pop(0) if len(self.watches) > 1 else self.watches[0])

    def _play(self, answers: list[Any]) -> Iterator[Any]:
        for answer in answers:
            if isinstance(answer, Exception):
                raise answer
            if isinstance(answer, int):
                self.now += answer
            else:
                yield answer

    def _sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now += seconds


def event(kind: str, item: object) -> dict[str, object]:
    return {"type": kind, "object": item}


def test_lists_then_follows() -> None:
    changes = [event("MODIFIED", TWO), event("DELETED", TWO), event("ADDED", ONE)]
    server = Server([LIST], [changes]).rounds(1)
    assert server.events == [Listed([ONE]), Changed(TWO), Deleted(TWO), Changed(ONE)]
    assert [params for _, params in server.asked] == [
        {"fieldSelector": "metadata.name=a"},
        {"fieldSelector": "metadata.name=a", "resourceVersion": "1"},
    ]
    assert server.follower.trouble() == ""


def test_of_an_object_that_changes_only_what_is_kept_is_emitted() -> None:
    source = Source("ConfigMap", "/x", "metadata.name=a", keep=lambda item: item["metadata"]["name"])
    server = Server([LIST], [[event("MODIFIED", TWO), event("DELETED", TWO)]], source).rounds(1)
    assert server.events[1:] == [Changed(cast(Any, "a")), Deleted(cast(Any, "a"))]


def test_goes_on_from_the_last_bookmark() -> None:
    server = Server([LIST], [[BOOKMARK], [event("ADDED", ONE)]]).rounds(2)
    assert server.events == [Listed([ONE]), Changed(ONE)]
    assert server.asked[2][1]["resourceVersion"] == "50"


def test_a_long_watch_is_followed_by_the_next_at_once() -> None:
    server = Server([LIST], [[300]]).rounds(3)
    assert (server.slept, server.events, server.follower.trouble()) == ([], [Listed([ONE])], "")


def test_lists_again_without_a_word_when_its_version_is_forgotten_after_a_while() -> None:
    server = Server([LIST], [[60, GONE]]).rounds(2)
    assert server.events == [Listed([ONE]), Listed([ONE])]
    assert server.slept == []


ENDS: dict[str, list[Any]] = {
    "at once": [],
    "after an event": [event("MODIFIED", TWO)],
    "410": [ApiError("gone", 410)],
    "410 as an event": [GONE],
    "500": [DOWN],
    "cut off": [1, event("MODIFIED", TWO), ApiError("broke off")],
    "odd": [event("MODIFIED", None)],
    "a mistake": [ValueError("x")],
}


@pytest.mark.parametrize("end", ENDS.values(), ids=ENDS)
def test_a_round_that_was_short_is_followed_by_a_pause_twice_as_long_as_the_last(end: list[Any]) -> None:
    server = Server([LIST], [end]).rounds(60)
    assert len([when for when, _ in server.asked if when < 3600]) < 2 * 3600 / (watch.LAST_PAUSE / 2)
    wanted = [min(watch.FIRST_PAUSE * 2**number, watch.LAST_PAUSE) for number in range(60)]
    assert all(pause / 2 <= slept <= pause for slept, pause in zip(server.slept, wanted, strict=True))
    assert any(earlier > later for earlier, later in pairwise(server.slept[10:]))  # jitter


def test_a_list_that_fails_is_followed_by_a_pause_too() -> None:
    server = Server([DOWN], [[]]).rounds(10)
    assert (len(server.asked), len(server.slept)) == (10, 10)
    assert server.slept[9] >= watch.LAST_PAUSE / 2


@pytest.mark.parametrize(("end", "pauses"), [([300], 4), ([300, DOWN], 5)])
def test_a_long_healthy_round_makes_the_next_pause_short_again(end: list[Any], pauses: int) -> None:
    server = Server([LIST], [[], [], [], end, []]).rounds(5)
    assert len(server.slept) == pauses
    assert server.slept[2] >= watch.FIRST_PAUSE * 2
    assert server.slept[3] <= watch.FIRST_PAUSE


@pytest.mark.parametrize(
    "end", [ENDS[name] for name in ENDS if name != "after an event"], ids=[n for n in ENDS if n != "after an event"]
)
def test_after_anything_odd_the_objects_are_listed_anew_and_until_then_in_doubt(end: list[Any]) -> None:
    server = Server([LIST], [end, [300]])
    assert server.follower.trouble() == "they have not been listed yet"
    server.rounds(1)
    assert isinstance(server.events[-1], Lost)
    assert server.follower.trouble() == server.events[-1].reason != ""
    server.rounds(1)
    assert server.events[-1] == Listed([ONE])
    assert server.follower.trouble() == ""


def test_silence_that_no_server_keeps_is_trouble() -> None:
    server = Server([LIST], [[300]]).rounds(1)
    server.now += watch.SECONDS_OF_SILENCE + 1
    assert server.follower.trouble() == "the API server has said nothing of them for 601 s"


@pytest.mark.filterwarnings("ignore:Exception in thread watch-test")
def test_a_thread_that_has_ended_is_trouble() -> None:
    def end(_: Event) -> None:
        raise SystemExit

    follower = Follower(cast(Api, Server([LIST], [[]])), SOURCE, end)
    follower.start("test")
    assert follower._thread is not None
    follower._thread.join(20)
    assert follower.trouble() == "their thread has ended"


def test_a_mistake_is_logged_with_its_traceback_once(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.ERROR):
        Server([LIST], [[ValueError("x")]]).rounds(3)
    assert [record.exc_info is not None for record in caplog.records] == [True]


NO_LISTS: dict[str, Any] = {
    "null": None,
    "a list": [],
    "a number": 3,
    "empty": {},
    "no items": {"metadata": {"resourceVersion": "1"}},
    "items of another type": {"metadata": {"resourceVersion": "1"}, "items": {"a": 1}},
    "no metadata": {"items": []},
    "metadata null": {"metadata": None, "items": []},
    "no version": {"metadata": {}, "items": []},
    "version null": {"metadata": {"resourceVersion": None}, "items": []},
    "version a number": {"metadata": {"resourceVersion": 1}, "items": []},
    "version endless": {"metadata": {"resourceVersion": "1" * 5000}, "items": []},
    "another kind": {"kind": "SecretList", "metadata": {"resourceVersion": "1"}, "items": []},
    "an object": {"kind": "ConfigMap", **ONE},
    "an item null": {"metadata": {"resourceVersion": "1"}, "items": [None]},
    "an item without metadata": {"metadata": {"resourceVersion": "1"}, "items": [{}]},
    "labels of another type": {"metadata": {"resourceVersion": "1"}, "items": [{"metadata": {"name": "a", "labels": {"a": 1}}}]},
    "data of another type": {"metadata": {"resourceVersion": "1"}, "items": [{**ONE, "data": {"a": {}}}]},
}
NO_EVENTS: dict[str, Any] = {
    "null": None,
    "a list": [],
    "empty": {},
    "no object": {"type": "ADDED"},
    "object null": event("ADDED", None),
    "object a list": event("ADDED", []),
    "no metadata": event("ADDED", {}),
    "metadata null": event("ADDED", {"metadata": None}),
    "no version": event("ADDED", {"metadata": {"name": "a"}}),
    "another kind": event("ADDED", {"kind": "Secret", **ONE}),
    "a Status": event("MODIFIED", {"kind": "Status", "metadata": {}, "code": 500}),
    "no type": {"object": ONE},
    "type null": {"type": None, "object": ONE},
    "type a list": {"type": [], "object": ONE},
    "unknown type": event("RENAMED", ONE),
    "bookmark of nothing": event("BOOKMARK", {}),
    "error of nothing": event("ERROR", None),
    "error with odd code": event("ERROR", {"code": [], "message": {}}),
    "labels of another type": event("ADDED", {"metadata": {"name": "a", "resourceVersion": "3", "labels": []}}),
    "deleted, without name": event("DELETED", {"metadata": {"resourceVersion": "3"}}),
}


@pytest.mark.parametrize("listed", NO_LISTS.values(), ids=NO_LISTS)
def test_a_list_of_another_shape_is_trouble_and_no_list(listed: object) -> None:
    server = Server([listed, LIST], [[300]]).rounds(1)
    assert [type(event) for event in server.events] == [Lost]
    server.rounds(1)
    assert server.events[1:] == [Listed([ONE])]


@pytest.mark.parametrize("odd", NO_EVENTS.values(), ids=NO_EVENTS)
def test_an_event_of_another_shape_is_trouble_and_no_event(odd: object) -> None:
    server = Server([LIST], [[odd, event("MODIFIED", TWO)], [300]]).rounds(1)
    assert [type(event) for event in server.events] == [Listed, Lost]
    server.rounds(1)
    assert server.events[2:] == [Listed([ONE])]


def test_items_null_is_an_empty_list() -> None:
    server = Server([{"kind": "ConfigMapList", "metadata": {"resourceVersion": "1"}, "items": None}], [[300]]).rounds(1)
    assert server.events == [Listed([])]


NAMES = st.sampled_from(["metadata", "resourceVersion", "items", "name", "kind", "labels", "type", "object", "code", "data"])
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5) | NAMES, inner, max_size=4),
    max_leaves=12,
)


@given(st.lists(JSON, min_size=1, max_size=3), st.lists(st.lists(JSON, max_size=3), min_size=1, max_size=3))
def test_no_answer_whatever_ends_the_stream(lists: list[Any], watches: list[list[Any]]) -> None:
    server = Server([*lists, LIST], [*[[one for one in found if not isinstance(one, int)] for found in watches], [300]])
    server.rounds(10)
    assert isinstance(server.events[-1], Listed)
    assert server.follower.trouble() == ""


def test_a_stream_over_http() -> None:
    answers: list[tuple[int, Any]] = [(500, {"message": "down"}), (200, LIST), (200, [event("MODIFIED", TWO)])]
    events: list[Event] = []
    with serving(*answers) as server:
        sleep: Callable[[float], object] = lambda _: None  # noqa: E731
        follower = Follower(server.api, SOURCE, events.append, sleep=sleep)
        follower.round()
        follower.round()
    assert isinstance(events[0], Lost)
    assert "500 down" in events[0].reason
    assert events[1:] == [Listed([ONE]), Changed(TWO)]


def test_a_stream_of_more_objects_than_an_answer_holds_over_http() -> None:
    first, last = (
        {"metadata": {"resourceVersion": "1", "continue": token}, "items": [item]} for token, item in (("x", ONE), ("", TWO))
    )
    answers: list[tuple[int, Any]] = [(200, [" " * (65 << 20)]), (200, first), (200, last), (200, [event("DELETED", TWO)])]
    events: list[Event] = []
    with serving(*answers) as server:
        Follower(server.api, SOURCE, events.append, sleep=lambda _: None).round()
    assert events == [Listed([ONE, TWO]), Deleted(TWO)]
