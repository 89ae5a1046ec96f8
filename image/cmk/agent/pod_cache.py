"""The pods bound to this node: fed by the watch, remembered across restarts, listed again when one is missing."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable, Mapping

from cmk.kube.client import ApiError, Json
from cmk.model import pods as pod_model
from cmk.model.pods import Pod

log = logging.getLogger(__name__)


class PodCache:
    """Pods by uid, and static pods by the hash that their cgroup is named after.

    ``list_pods`` fetches the pods from the API's quorum. ``on_listed`` is called when such a list brings something new: the watch, which
    feeds all other changes, does not know of it.
    """

    def __init__(self, list_pods: Callable[[], Awaitable[list[Json]]], on_listed: Callable[[], None]) -> None:
        self._list_pods = list_pods
        self._on_listed = on_listed
        self._pods: Mapping[str, Pod] = {}
        self._news = asyncio.Event()
        self._listing: asyncio.Task[None] | None = None

    @property
    def all(self) -> Mapping[str, Pod]:
        """Every known pod by uid. A change makes another mapping: this one stays as it is."""
        return self._pods

    def remember(self, pods: Iterable[Pod]) -> None:
        """Start from the pods that an earlier agent knew."""
        self._pods = {pod.uid: pod for pod in pods}

    def listed(self, items: Iterable[Json]) -> None:
        """Replace all pods."""
        self._set({pod.uid: pod for pod in map(pod_model.from_json, items)})

    def updated(self, item: Json) -> None:
        """Replace one pod."""
        pod = pod_model.from_json(item)
        self._set({**self._pods, pod.uid: pod})

    def deleted(self, item: Json) -> None:
        """Forget one pod."""
        self._set({uid: pod for uid, pod in self._pods.items() if uid != item["metadata"]["uid"]})

    def get(self, name: str) -> Pod | None:
        """Pod by the name of its cgroup: uid, or a static pod's hash."""
        pod = self._pods.get(name)
        if pod is None and name:
            pod = next((pod for pod in self._pods.values() if pod.config_hash == name), None)
        return pod

    async def find(self, name: str) -> Pod:
        """Pod by the name of its cgroup. An unknown one is listed at once and then waited for: the caller sets the deadline."""
        while (pod := self.get(name)) is None:
            self._start_listing()
            news = self._news
            await news.wait()
        return pod

    async def refresh(self) -> None:
        """List the pods now: the watch may be behind. Raises ApiError."""
        before = self._pods
        self.listed(await self._list_pods())
        if self._pods is not before:
            self._on_listed()

    def _start_listing(self) -> None:
        if self._listing is None or self._listing.done():
            self._listing = asyncio.get_running_loop().create_task(self._list())

    async def _list(self) -> None:
        try:
            await self.refresh()
        except ApiError as error:
            log.warning("cannot list pods: %s", error)

    def _set(self, pods: dict[str, Pod]) -> None:
        if pods != self._pods:
            self._pods = pods
        self._news.set()
        self._news = asyncio.Event()
