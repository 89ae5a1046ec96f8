"""The search for an older CMK, before the first layout of a node: does one still run, and has one left pools and tasks?"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from pathlib import Path

import msgspec

from cmk.host import state
from cmk.kube.client import Api, ApiError, Json
from cmk.legacy import running, takeover, tree
from cmk.legacy.takeover import AdoptionError, TakenOver
from cmk.model.reasons import Obstacle
from cmk.model.topology import Topology

log = logging.getLogger(__name__)

SECONDS_BETWEEN_LOOKS = 10.0
_WEBHOOKS = "/apis/admissionregistration.k8s.io/v1/mutatingwebhookconfigurations"
_CRDS = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"


class Traces(msgspec.Struct, frozen=True):
    """Where an older CMK may have left its state: ``directories``, and ConfigMaps of ``node`` in ``namespaces``. The content of a ConfigMap
    that has been taken over is saved in the directory ``keep_in``.
    """

    node: str
    directories: tuple[Path, ...]
    namespaces: tuple[str, ...]
    keep_in: Path


class Predecessor:
    """The search and its result.

    ``looked`` is False until everything has been looked at. ``reason`` and ``problem``, a condition's, say why no task can be served yet.
    ``taken_over`` is the state to take over, if any, and ``source`` its place in words.
    """

    def __init__(self, api: Api, traces: Traces, list_pods: Callable[[], Awaitable[list[Json]]], topology: Topology) -> None:
        self._api = api
        self._traces = traces
        self._list_pods = list_pods
        self._topology = topology
        self._directory: Path | None = None
        self._kept = ""
        self.looked = False
        self.reason: Obstacle | None = None
        self.problem = ""
        self.taken_over: TakenOver | None = None
        self.source = ""

    async def look(self, changed: Callable[[], None]) -> None:
        """Look until nothing is in the way; calls ``changed`` after every look."""
        while True:
            try:
                self.reason, self.problem = await self._look()
                self.looked = True
            except ApiError as error:
                log.warning("cannot look for an older CMK: %s", error)
            changed()
            if self.looked and not self.problem:
                return
            await asyncio.sleep(SECONDS_BETWEEN_LOOKS)

    def set_aside(self) -> None:
        """Move the old state to where it is not found again. Raises StateError."""
        try:
            if self._directory is not None:
                log.info("the old pools are kept in %s", tree.set_aside(self._directory))
            if self._kept:
                copy = self._traces.keep_in / "cmk-config.yaml.old"
                copy.write_text(self._kept)
                log.info("the old configuration is kept in %s", copy)
        except OSError as error:
            raise state.StateError(f"cannot move the state of the older CMK aside: {error}") from error

    async def _look(self) -> tuple[Obstacle | None, str]:
        commands = await self._in_the_way()
        if commands:
            return Obstacle.OLD_CMK_RUNS, f"an older CMK still runs here; remove it and the agent goes on: {' ; '.join(commands)}"
        try:
            await self._read()
        except AdoptionError as error:
            return Obstacle.ADOPTION_REFUSED, (
                f"{self.source} does not fit this node: {error}; to start afresh, remove the directory's pools or the ConfigMap"
            )
        return None, ""

    async def _in_the_way(self) -> list[str]:
        own = [str(directory) for directory in self._traces.directories]
        commands = running.removal_of_daemons(await self._list_pods(), own)
        if await self._get(f"{_WEBHOOKS}/{running.WEBHOOK}"):
            commands.append(f"kubectl delete mutatingwebhookconfiguration {running.WEBHOOK}")
        crds = [name for name in running.CRDS if await self._get(f"{_CRDS}/{name}")]
        if crds:
            commands.append(f"kubectl delete crd {' '.join(crds)}")  # otherwise kubectl get cmk-nodereport shows the old objects
        return commands

    async def _read(self) -> None:
        self._directory = next((path for path in self._traces.directories if tree.exists(path)), None)
        for namespace in self._traces.namespaces:
            name = f"cmk-config-{self._traces.node}"
            configmap = await self._get(f"/api/v1/namespaces/{namespace}/configmaps/{name}")
            if configmap:
                self.source = f"ConfigMap {namespace}/{name} of CMK 1.5"
                self._kept = (configmap.get("data") or {}).get("config") or ""
                self.taken_over = takeover.take_over(takeover.parse_configmap(_yaml(self._kept)), self._topology)
                return
        if self._directory is not None:
            self.source = f"the directory {self._directory}"
            self.taken_over = takeover.take_over(tree.read(self._directory), self._topology)

    async def _get(self, path: str) -> Json | None:
        return await asyncio.to_thread(self._api.find, path)


def _yaml(text: str) -> object:
    import yaml  # noqa: PLC0415  # no agent but one that takes a ConfigMap over needs it

    try:
        return yaml.safe_load(text)
    except (yaml.YAMLError, ValueError, RecursionError) as error:  # ValueError: a date or a number that cannot be
        raise AdoptionError(f"it is not valid YAML: {' '.join(str(error).split())}") from error
