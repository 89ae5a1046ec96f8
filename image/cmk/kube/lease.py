"""A Lease of coordination.k8s.io, which one of several processes holds at a time."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from time import monotonic

import msgspec

from cmk.kube.client import CONFLICT, NOT_FOUND, Api, ApiError, Json

DURATION_SECONDS = 15


class LeaseMissingError(ApiError):
    """There is no such Lease, and this process is not one that creates it."""


class Creation(msgspec.Struct, frozen=True):
    """How to create a missing Lease: by which field manager, and what Kubernetes deletes it with. What ``owner`` raises, ``hold`` does."""

    manager: str
    owner: Callable[[], Json | None]


class Lease:
    """A claim on a Lease; not thread-safe. Without ``creation`` a missing Lease is not created.

    Another's claim has expired when its object has not changed for as long as it is valid by *our* clock: the times written in it come from
    clocks that may be wrong.
    """

    def __init__(
        self,
        api: Api,
        namespace: str,
        name: str,
        holder: str,
        creation: Creation | None = None,
        clock: Callable[[], float] = monotonic,
    ) -> None:
        self.name = name
        self._api, self._holder, self._creation, self._clock = api, holder, creation, clock
        self._path = f"/apis/coordination.k8s.io/v1/namespaces/{namespace}/leases/{name}"
        self._observed: tuple[str, float] = ("", 0.0)

    def hold(self) -> bool:
        """Acquire or renew the claim; returns whether it is ours. Raises ApiError, of which LeaseMissingError is one."""
        lease = self._api.find(self._path)
        if lease is None:
            return self._create()
        spec = lease.get("spec") or {}
        holder = spec.get("holderIdentity") or ""
        if holder not in ("", self._holder) and not self._has_expired(lease, spec):
            return False
        return self._write(lambda: self._api.replace(self._path, self._body(spec, lease)))

    def _create(self) -> bool:
        creation = self._creation
        if creation is None:
            raise LeaseMissingError(f"no {self._path}", NOT_FOUND)
        owners = [owner] if (owner := creation.owner()) else []
        metadata = {"name": self.name, "ownerReferences": owners}
        lease: Json = {"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": metadata}
        # Applied, not posted: of a POST, RBAC cannot know whether it makes our Lease or another. Two that do so at once both get it
        # for one turn; what they write is guarded by resource versions.
        return self._write(lambda: self._api.apply(self._path, self._body({}, lease), creation.manager))

    def release(self) -> None:
        """Give up the claim, so that the next holder need not wait until it expires; raises ApiError."""
        lease = self._api.get(self._path)
        if (lease.get("spec") or {}).get("holderIdentity") == self._holder:
            lease["spec"]["holderIdentity"] = ""
            self._api.replace(self._path, lease)

    def _has_expired(self, lease: Json, spec: Json) -> bool:
        version = str(lease["metadata"]["resourceVersion"])
        if version != self._observed[0]:
            self._observed = (version, self._clock())
        return self._clock() - self._observed[1] >= float(spec.get("leaseDurationSeconds") or DURATION_SECONDS)

    def _body(self, spec: Json, lease: Json) -> Json:
        now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        ours = spec.get("holderIdentity") == self._holder
        return {
            **lease,
            "spec": {
                "holderIdentity": self._holder,
                "leaseDurationSeconds": DURATION_SECONDS,
                "acquireTime": spec.get("acquireTime", now) if ours else now,
                "renewTime": now,
                "leaseTransitions": int(spec.get("leaseTransitions") or 0) + (not ours),
            },
        }

    def _write(self, write: Callable[[], Json]) -> bool:
        try:
            write()
        except ApiError as error:
            if error.status != CONFLICT:
                raise
            return False  # another holder was quicker
        return True
