"""One holder among several: a Lease of coordination.k8s.io."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from time import monotonic

from cmk.kube.client import CONFLICT, Api, ApiError, Json

DURATION_SECONDS = 15


class Lease:
    """A claim on a Lease. Not thread-safe. ``owner`` is what the object goes with.

    Another's claim has run out when its object has not changed for as long as it is valid by *our* clock: the times written in it come from
    clocks that may be wrong.
    """

    def __init__(
        self,
        api: Api,
        namespace: str,
        name: str,
        holder: str,
        owner: Callable[[], Json | None],
        clock: Callable[[], float] = monotonic,
    ) -> None:
        self._api, self._name, self._holder, self._owner, self._clock = api, name, holder, owner, clock
        self._path = f"/apis/coordination.k8s.io/v1/namespaces/{namespace}/leases/{name}"
        self._seen: tuple[str, float] = ("", 0.0)

    def hold(self) -> bool:
        """Take or renew the claim if nobody else has it; raises ApiError."""
        lease = self._api.find(self._path)
        if lease is None:
            owners = [owner] if (owner := self._owner()) else []
            metadata = {"name": self._name, "ownerReferences": owners}
            fresh: Json = {"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": metadata}
            # Applied, not posted: of a POST, RBAC cannot know whether it makes our Lease or another. Two that do so at once both get it
            # for one turn; what they write is guarded by resource versions.
            return self._write(lambda: self._api.apply(self._path, self._body({}, fresh), "cmk-certs"))
        spec = lease.get("spec") or {}
        holder = spec.get("holderIdentity") or ""
        if holder not in ("", self._holder) and not self._has_run_out(lease, spec):
            return False
        return self._write(lambda: self._api.replace(self._path, self._body(spec, lease)))

    def release(self) -> None:
        """Let the next one have it at once; raises ApiError."""
        lease = self._api.get(self._path)
        if (lease.get("spec") or {}).get("holderIdentity") == self._holder:
            lease["spec"]["holderIdentity"] = ""
            self._api.replace(self._path, lease)

    def _has_run_out(self, lease: Json, spec: Json) -> bool:
        version = str(lease["metadata"]["resourceVersion"])
        if version != self._seen[0]:
            self._seen = (version, self._clock())
        return self._clock() - self._seen[1] >= float(spec.get("leaseDurationSeconds") or DURATION_SECONDS)

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
            return False  # somebody was quicker
        return True
