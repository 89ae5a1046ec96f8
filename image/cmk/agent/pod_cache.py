"""The pods bound to this node: fed by the watch, remembered across restarts, listed again when one is missing."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable, Mapping

from cmk.kube import shapes
from cmk.kube.client import ApiError, Json
from cmk.kube.shapes import ShapeError
from cmk.model import pods as pod_model
from cmk.model.pods import Pod
from cmk.model.quantity import QuantityError

log = logging.getLogger(__name__)

# Malformed pods that are remembered, so that each is logged once.
MOST_REMEMBERED = 1000
# Lists from the quorum are expensive, and a process whose pod is gone from the API may ask again and again.
SECONDS_BETWEEN_LISTINGS = 1.0


class PodCache:
    """Pods by uid, and static pods by the hash that their cgroup is named after.

    ``list_pods`` fetches the pods from the API's quorum. ``on_listed`` is called when such a list brings something new: the watch, which
    feeds all other changes, does not know of it. A pod that cannot be read is skipped, logged once, and counted in ``malformed`` each time.
    """

    def __init__(self, list_pods: Callable[[], Awaitable[list[Json]]], on_listed: Callable[[], None]) -> None:
        self._list_pods = list_pods
        self._on_listed = on_listed
        self._pods: Mapping[str, Pod] = {}
        self._news = asyncio.Event()
        self._listing: asyncio.Task[None] | None = None
        self._is_wanted = False
        self._next_listing = 0.0
        self._logged: set[str] = set()
        self.malformed = 0

    @property
    def all(self) -> Mapping[str, Pod]:
        """Every known pod by uid. A change makes another mapping: this one stays as it is."""
        return self._pods

    def remember(self, pods: Iterable[Pod]) -> None:
        """Start from the pods that an earlier agent knew."""
        self._pods = {pod.uid: pod for pod in pods}

    def listed(self, items: Iterable[object]) -> list[Json]:
        """Replace all pods; returns the items that can be read. A known pod that cannot be read now stays as it was."""
        every = list(items)
        read = self.read(every)
        unchanged = {uid: self._pods[uid] for uid in map(_uid, every) if uid in self._pods}
        self._set({**unchanged, **{pod.uid: pod for _, pod in read}})
        return [item for item, _ in read]

    def updated(self, item: object) -> list[Json]:
        """Replace one pod; returns the item if it can be read."""
        read = self.read([item])
        self._set({**self._pods, **{pod.uid: pod for _, pod in read}})
        return [item for item, _ in read]

    def deleted(self, item: object) -> str:
        """Forget one pod; returns its uid."""
        gone = _uid(item)
        self._set({uid: pod for uid, pod in self._pods.items() if uid != gone})
        return gone

    def read(self, items: Iterable[object]) -> list[tuple[Json, Pod]]:
        """The items that can be read, each with the pod that it is."""
        found = []
        for item in items:
            try:
                obj = shapes.check(item, shapes.BoundPodShape, f"pod {_uid(item)!r}")
                found.append((obj, pod_model.from_json(obj)))
            except (ShapeError, QuantityError) as error:
                self._skip(_uid(item), error)
        return found

    def get(self, name: str) -> Pod | None:
        """Pod by the name of its cgroup: uid, or a static pod's hash."""
        pod = self._pods.get(name)
        if pod is None and name:
            pod = next((pod for pod in self._pods.values() if pod.config_hash == name), None)
        return pod

    async def find(self, name: str) -> Pod:
        """Pod by the name of its cgroup. An unknown one is listed once, and then waited for: the caller sets the deadline."""
        if self.get(name) is None:
            self._start_listing()
        while (pod := self.get(name)) is None:
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
        self._is_wanted = True  # one that has been sent already may be answered without the pod
        if self._listing is None or self._listing.done():
            self._listing = asyncio.get_running_loop().create_task(self._list())

    async def _list(self) -> None:
        loop = asyncio.get_running_loop()
        while self._is_wanted:
            await asyncio.sleep(self._next_listing - loop.time())
            self._is_wanted, self._next_listing = False, loop.time() + SECONDS_BETWEEN_LISTINGS
            try:
                await self.refresh()
            except ApiError as error:
                log.warning("cannot list pods: %s", error)

    def _skip(self, uid: str, error: Exception) -> None:
        self.malformed += 1
        if uid not in self._logged and len(self._logged) < MOST_REMEMBERED:
            self._logged.add(uid)
            log.error("pod %r is skipped: %s", uid, error)

    def _set(self, pods: dict[str, Pod]) -> None:
        if pods != self._pods:
            self._pods = pods
        self._news.set()
        self._news = asyncio.Event()


def _uid(item: object) -> str:
    metadata = item.get("metadata") if isinstance(item, dict) else None
    uid = metadata.get("uid") if isinstance(metadata, dict) else None
    return uid[:100] if isinstance(uid, str) else ""
