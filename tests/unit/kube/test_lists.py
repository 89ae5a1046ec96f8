from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import pytest

from cmk.kube import lists
from cmk.kube.client import GONE, Api, ApiError, Json, TooLongError
from cmk.kube.lists import Lister
from tests.unit.kube.apiserver import serving


class Server:
    """Objects of some size each, of which an answer holds ``room``. ``asked`` has limit and token of each request.

    Instead of the n-th answer it gives ``instead[n]``: an exception, or an answer.
    """

    def __init__(self, sizes: list[int], room: int = 64) -> None:
        self.sizes, self.room = sizes, room
        self.asked: list[tuple[str, str]] = []
        self.instead: dict[int, Any] = {}
        self.now = 0.0
        self.lister = Lister(cast(Api, self), "Pod", "/x", "a=b", str, lambda: self.now)

    def page(self, _: str, keep: Callable[[Any], Any], **params: str) -> Any:  # noqa: ANN401
        assert params.pop("fieldSelector") == "a=b"
        limit, token = params.pop("limit", ""), params.pop("continue", "")
        assert not params
        self.asked.append((limit, token))
        other = self.instead.get(len(self.asked), self)
        if isinstance(other, Exception):
            raise other
        if other is not self:
            return other
        start = int(token or "0")
        end = min(start + int(limit or len(self.sizes)), len(self.sizes))
        if sum(self.sizes[start:end]) > self.room:
            raise TooLongError("too long")
        items = [keep(number) for number in range(start, end)]
        return part(str(end) if end < len(self.sizes) else "", items, version=str(len(self.asked)))


def part(token: object, items: list[Any], version: str = "1") -> Json:
    return {"metadata": {"resourceVersion": version, "continue": token}, "items": items}


GONE_ERROR = ApiError("the token has expired", GONE)


def test_a_list_that_is_not_too_long_is_one_request() -> None:
    server = Server([1] * 64)
    assert server.lister.read()[1] == [str(number) for number in range(64)]
    assert server.asked == [("", "")]


@pytest.mark.parametrize(
    ("sizes", "asked"),
    [
        ([1] * 65, [("", ""), ("32", ""), ("32", "32"), ("32", "64")]),
        ([3] * 32, [("", ""), ("32", ""), ("16", ""), ("16", "16")]),
        (
            [1] * 40 + [64, 1],
            [
                ("", ""),
                ("32", ""),
                ("32", "32"),
                *[(f"{2**n}", "32") for n in (4, 3)],
                ("8", "40"),
                *[(f"{2**n}", "40") for n in (2, 1, 0)],
                ("1", "41"),
            ],
        ),
    ],
)
def test_a_list_that_is_too_long_is_read_in_parts_that_are_not(sizes: list[int], asked: list[tuple[str, str]]) -> None:
    server = Server(sizes)
    assert server.lister.read()[1] == [str(number) for number in range(len(sizes))]
    assert server.asked == asked


def test_the_version_of_a_list_is_that_of_its_first_part() -> None:
    assert Server([1] * 65).lister.read()[0]["metadata"]["resourceVersion"] == "2"


def test_an_object_that_is_too_long_alone_is_an_error() -> None:
    with pytest.raises(TooLongError):
        Server([1, 65, 1]).lister.read()


def test_the_whole_of_a_list_that_was_too_long_is_asked_for_again_after_a_while() -> None:
    server = Server([1] * 65)
    for now in (0.0, lists.SECONDS_IN_PARTS - 1, lists.SECONDS_IN_PARTS):
        server.now = now
        server.lister.read()
    assert [limit for limit, token in server.asked if not token] == ["", "32", "32", "", "32"]


def test_a_list_whose_token_has_expired_is_begun_anew() -> None:
    server = Server([1] * 65)
    server.instead = {3: GONE_ERROR}
    listed, items = server.lister.read()
    assert items == [str(number) for number in range(65)]
    assert listed["metadata"]["resourceVersion"] == "4"


def test_a_list_whose_tokens_expire_again_and_again_is_an_error_that_is_not_taken_for_an_old_watch() -> None:
    server = Server([1] * 65)
    server.instead = dict.fromkeys(range(2, 100), GONE_ERROR)
    with pytest.raises(ApiError, match="longer than the API server keeps it") as caught:
        server.lister.read()
    assert caught.value.status == 0
    assert len(server.asked) == 1 + lists.ATTEMPTS


def test_another_error_ends_a_list_at_once() -> None:
    server = Server([1] * 65)
    server.instead = {3: ApiError("down", 500)}
    with pytest.raises(ApiError, match="down"):
        server.lister.read()
    assert len(server.asked) == 3


ODD: dict[str, Any] = {
    "null": None,
    "no items": {"metadata": {}},
    "another kind": {"kind": "SecretList", "metadata": {}, "items": []},
    "no metadata": {"items": []},
    "metadata null": {"metadata": None, "items": []},
    "token a number": part(3, []),
    "token a list": part([], []),
    "token endless": part("a" * 100_000, []),
    "the same token": part("32", []),
}


@pytest.mark.parametrize("odd", ODD.values(), ids=ODD)
def test_a_part_of_another_shape_is_an_error_and_not_the_last(odd: object) -> None:
    server = Server([1] * 65)
    server.instead = {3: odd}
    with pytest.raises(ApiError, match="the list of /x"):
        server.lister.read()
    assert len(server.asked) == 3


def test_a_list_without_end_is_not_read_to_its_end() -> None:
    server = Server([])
    server.instead = {number: part(str(number), []) for number in range(lists.MOST_PARTS + 10)}
    with pytest.raises(ApiError, match="has no end"):
        server.lister.read()
    assert len(server.asked) == lists.MOST_PARTS


def test_parts_over_http() -> None:
    whole: tuple[int, Any] = (200, {"metadata": {}, "items": ["x" * (17 << 20)]})
    with serving(whole, (200, part("next", ["a"])), (200, part("", ["b"]))) as server:
        assert Lister(server.api, "Pod", "/x", "a=b").read()[1] == ["a", "b"]
    assert [request[2] for request in server.seen] == [
        {"fieldSelector": "a=b"},
        {"fieldSelector": "a=b", "limit": "32"},
        {"fieldSelector": "a=b", "limit": "32", "continue": "next"},
    ]
