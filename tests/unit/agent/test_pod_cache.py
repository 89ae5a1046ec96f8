from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from cmk.agent import pod_cache
from cmk.agent.pod_cache import MOST_REMEMBERED, PodCache
from cmk.kube.client import ApiError
from cmk.model.pods import Pod

STATIC = {"kubernetes.io/config.hash": "hash", "kubernetes.io/config.mirror": "hash"}


def item(uid: str, annotations: dict[str, str] | None = None) -> dict[str, Any]:
    meta = {"uid": uid, "name": uid, "namespace": "ns", "annotations": annotations or {}}
    return {"metadata": meta, "spec": {"containers": []}}


class Listing:
    """A cache, what the API server lists, and what was asked and told."""

    def __init__(self) -> None:
        self.items: list[dict[str, Any]] = []
        self.asked = 0
        self.news = 0
        self.error = ""
        self.cache = PodCache(self._list, self._on_listed)

    async def _list(self) -> list[dict[str, Any]]:
        self.asked += 1
        if self.error:
            raise ApiError(self.error)
        return self.items

    def _on_listed(self) -> None:
        self.news += 1


def run(scenario: Callable[[Listing], Awaitable[None]]) -> None:
    async def started() -> None:
        async with asyncio.timeout(20):
            await scenario(Listing())

    asyncio.run(started())


def test_the_cache_follows_the_watch() -> None:
    async def scenario(listing: Listing) -> None:
        cache, uids = listing.cache, []
        for change in (
            lambda: cache.listed([item("a"), item("b")]),
            lambda: cache.updated(item("c")),
            lambda: cache.deleted(item("a")),
            lambda: cache.deleted(item("a")),
            lambda: cache.listed([item("d")]),
        ):
            change()
            uids.append("".join(cache.all))
        assert uids == ["ab", "abc", "bc", "bc", "d"]
        assert (listing.asked, listing.news) == (0, 0)

    run(scenario)


def test_a_mapping_stays_as_it_is_and_the_same_until_something_changes() -> None:
    async def scenario(listing: Listing) -> None:
        listing.cache.listed([item("a")])
        before = listing.cache.all
        listing.cache.updated(item("a"))
        assert listing.cache.all is before
        listing.cache.updated(item("b"))
        assert list(before) == ["a"]

    run(scenario)


@pytest.mark.parametrize(("name", "uid"), [("a", "a"), ("hash", "s"), ("", None), ("other", None)])
def test_a_pod_goes_by_its_uid_or_a_static_pods_hash(name: str, uid: str | None) -> None:
    async def scenario(listing: Listing) -> None:
        listing.cache.listed([item("a"), item("s", STATIC)])
        pod = listing.cache.get(name)
        assert (pod.uid if pod else None) == uid

    run(scenario)


def test_an_unknown_pod_is_listed_at_once_and_that_is_news() -> None:
    async def scenario(listing: Listing) -> None:
        listing.items = [item("a")]
        assert (await listing.cache.find("a")).uid == "a"
        assert (listing.asked, listing.news) == (1, 1)

    run(scenario)


def test_a_known_pod_is_not_asked_for() -> None:
    async def scenario(listing: Listing) -> None:
        listing.cache.remember([Pod("a", "ns", "a", {})])
        assert (await listing.cache.find("a")).uid == "a"
        assert listing.asked == 0

    run(scenario)


@pytest.mark.parametrize("error", ["", "no API server"])
def test_a_pod_that_is_not_listed_is_waited_for_until_the_watch_tells(error: str) -> None:
    async def scenario(listing: Listing) -> None:
        listing.error = error
        finding = asyncio.ensure_future(listing.cache.find("a"))
        while not listing.asked:
            await asyncio.sleep(0)
        listing.cache.updated(item("a"))
        assert (await finding).uid == "a"

    run(scenario)


def test_an_unknown_pod_is_listed_once_however_long_it_is_waited_for() -> None:
    async def scenario(listing: Listing) -> None:
        finding = asyncio.ensure_future(listing.cache.find("a"))
        while not listing.asked:
            await asyncio.sleep(0)
        for number in range(10):
            listing.cache.updated(item(f"other{number}"))
            for _ in range(5):
                await asyncio.sleep(0)
        assert listing.asked == 1
        listing.cache.updated(item("a"))
        assert (await finding).uid == "a"

    run(scenario)


@pytest.mark.parametrize(("pause", "asked"), [(0.0, 2), (3600.0, 1)])
def test_a_pod_that_a_list_may_have_missed_is_listed_again_after_a_pause(
    monkeypatch: pytest.MonkeyPatch, pause: float, asked: int
) -> None:
    monkeypatch.setattr(pod_cache, "SECONDS_BETWEEN_LISTINGS", pause)

    async def scenario(listing: Listing) -> None:
        first = asyncio.ensure_future(listing.cache.find("a"))
        while not listing.asked:
            await asyncio.sleep(0)
        second = asyncio.ensure_future(listing.cache.find("b"))
        for _ in range(10):
            await asyncio.sleep(0)
        assert listing.asked == asked
        listing.cache.listed([item("a"), item("b")])
        await asyncio.gather(first, second)

    run(scenario)


def test_many_that_look_for_pods_at_once_list_once() -> None:
    async def scenario(listing: Listing) -> None:
        listing.items = [item("a"), item("b")]
        pods = await asyncio.gather(*(listing.cache.find(uid) for uid in "abab"))
        assert [pod.uid for pod in pods] == ["a", "b", "a", "b"]
        assert listing.asked == 1

    run(scenario)


def test_a_list_that_says_the_same_is_no_news() -> None:
    async def scenario(listing: Listing) -> None:
        listing.items = [item("a")]
        await listing.cache.refresh()
        await listing.cache.refresh()
        assert (listing.asked, listing.news) == (2, 1)

    run(scenario)


def test_a_refresh_that_fails_says_so_and_forgets_nothing() -> None:
    async def scenario(listing: Listing) -> None:
        listing.cache.listed([item("a")])
        listing.error = "no API server"
        with pytest.raises(ApiError, match="no API server"):
            await listing.cache.refresh()
        assert list(listing.cache.all) == ["a"]

    run(scenario)


MALFORMED: list[Any] = [
    None,
    [],
    3,
    {},
    {"metadata": None, "spec": {"containers": []}},
    {"metadata": {"uid": None, "name": "b", "namespace": "ns"}, "spec": {"containers": []}},
    {**item("b"), "spec": None},
    {**item("b"), "spec": {"containers": None}},
    {**item("b"), "spec": {"containers": [None]}},
    {**item("b"), "spec": {"containers": [{"resources": []}]}},
    {**item("b"), "spec": {"containers": [{"resources": {"limits": {"cmk.intel.com/exclusive-cores": {}}}}]}},
    {**item("b"), "spec": {"containers": [{"securityContext": {"privileged": "yes"}}]}},
    {**item("b"), "spec": {"containers": [], "volumes": [None]}},
    {**item("b"), "spec": {"containers": [], "volumes": [{"hostPath": {}}]}},
    {**item("b"), "status": []},
    item("b", {"cmk.intel.com/on-move": 3}),  # type: ignore[dict-item]
    item("b", [1]),  # type: ignore[arg-type]
    {**item("b"), "metadata": {**item("b")["metadata"], "ownerReferences": [None]}},
]


@pytest.mark.parametrize("malformed", MALFORMED, ids=range(len(MALFORMED)))
def test_a_malformed_pod_hides_no_other_and_is_logged_once(malformed: Any, caplog: pytest.LogCaptureFixture) -> None:  # noqa: ANN401
    async def scenario(listing: Listing) -> None:
        listing.items = [malformed, item("a"), malformed, item("c")]
        await listing.cache.refresh()
        assert list(listing.cache.all) == ["a", "c"]
        assert listing.cache.updated(malformed) == []
        assert list(listing.cache.all) == ["a", "c"]
        assert listing.cache.malformed == 3

    run(scenario)
    assert [record.levelname for record in caplog.records] == ["ERROR"]


def test_a_known_pod_that_cannot_be_read_any_more_stays_as_it_was() -> None:
    async def scenario(listing: Listing) -> None:
        listing.cache.listed([item("a"), item("b")])
        known = listing.cache.all["b"]
        listing.cache.listed([item("a"), {**item("b"), "spec": None}])
        assert listing.cache.all["b"] is known
        listing.cache.listed([item("a")])
        assert list(listing.cache.all) == ["a"]

    run(scenario)


def test_malformed_pods_without_end_fill_neither_log_nor_memory(caplog: pytest.LogCaptureFixture) -> None:
    async def scenario(listing: Listing) -> None:
        listing.cache.listed({**item(str(number)), "spec": None} for number in range(MOST_REMEMBERED + 500))
        assert listing.cache.malformed == MOST_REMEMBERED + 500

    run(scenario)
    assert len(caplog.records) == MOST_REMEMBERED
