"""The pods bound to this node: fed by the watch, remembered across restarts, asked again when one is missing."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable, Mapping

from cmk.kube.client import ApiError, Json
from cmk.model import pods as pod_model
from cmk.model.pods import Pod

log = logging.getLogger(__name__)


class Pods:
    """Pods by uid, and static pods by the hash their cgroup is named after.

    ``list_now`` fetches the pods from the API's quorum; ``changed`` is called after every change.
    """

    def __init__(self, list_now: Callable[[], Awaitable[list[Json]]], changed: Callable[[], None]) -> None:
        self._list_now = list_now
        self._changed = changed
        self._pods: dict[str, Pod] = {}
        self._news = asyncio.Event()
        self._listing: asyncio.Task[None] | None = None

    @property
    def all(self) -> Mapping[str, Pod]:
        """Every known pod by uid."""
        return self._pods

    def remember(self, pods: Iterable[Pod]) -> None:
        """Start from what an earlier agent knew."""
        self._pods = {pod.uid: pod for pod in pods}

    def listed(self, items: Iterable[Json]) -> None:
        """All pods there are."""
        self._set({pod.uid: pod for pod in map(pod_model.from_json, items)})

    def updated(self, item: Json) -> None:
        """One pod as it is now."""
        pod = pod_model.from_json(item)
        self._set({**self._pods, pod.uid: pod})

    def deleted(self, item: Json) -> None:
        """One pod is gone."""
        self._set({uid: pod for uid, pod in self._pods.items() if uid != item["metadata"]["uid"]})

    def get(self, place: str) -> Pod | None:
        """Pod by what its cgroup is named after: uid, or a static pod's hash."""
        found = self._pods.get(place)
        if found is None and place:
            found = next((pod for pod in self._pods.values() if pod.config_hash == place), None)
        return found

    async def find(self, place: str) -> Pod:
        """Pod by uid or hash; an unknown one is asked for at once and then waited for: the caller sets the deadline."""
        while (pod := self.get(place)) is None:
            self._ask()
            news = self._news
            await news.wait()
        return pod

    def _ask(self) -> None:
        if self._listing is None or self._listing.done():
            self._listing = asyncio.get_running_loop().create_task(self._list())

    async def _list(self) -> None:
        try:
            self.listed(await self._list_now())
        except ApiError as error:
            log.warning("cannot look up pods: %s", error)

    def _set(self, pods: dict[str, Pod]) -> None:
        same = pods == self._pods
        self._pods = pods
        self._news.set()
        self._news = asyncio.Event()
        if not same:
            self._changed()
