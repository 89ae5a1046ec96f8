"""The webhook's certificate in the API: its Secret, and the ``caBundle`` by which the API server trusts it.

A change loses no call because of its order: first the API server trusts the new CA besides the old one, then replicas serve the new
certificate. A replica that reads the Secret late goes on serving the old certificate, which is still trusted.
"""

from __future__ import annotations

import base64
import logging
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from time import sleep

import msgspec

from cmk.certificates import pki
from cmk.certificates.pki import Issued
from cmk.kube.client import CONFLICT, NOT_FOUND, Api, ApiError, Json
from cmk.model.errors import CmkError

log = logging.getLogger(__name__)

WEBHOOKS = "/apis/admissionregistration.k8s.io/v1/mutatingwebhookconfigurations"
WEBHOOK = "pods.cmk.intel.com"
# Field manager of all that this module and the keeper create.
MANAGER = "cmk-certs"
# Gives every API server time to see the new CA before a replica serves a certificate signed by it.
SECONDS_TO_SPREAD = 2.0
# By these annotations the chart leaves out a hook that has nothing to do: the certificate's DNS name, and its end (UTC, RFC 3339).
FOR, UNTIL = "cmk.intel.com/service", "cmk.intel.com/not-after"
_ATTEMPTS = 5
_TYPE = "kubernetes.io/tls"


class CertsError(CmkError):
    """The certificate cannot be issued or installed; the text says what to do."""


class ReleaseNames(msgspec.Struct, frozen=True):
    """Names of the API objects of one release's webhook.

    ``owner`` is the Deployment that owns Secret and Lease. The ClusterRole has the name of ``configuration``, which it owns.
    """

    namespace: str
    secret: str
    service: str
    configuration: str
    owner: str

    @property
    def dns_names(self) -> tuple[str, ...]:
        """The names by which a Service is called, the API server's first."""
        return (f"{self.service}.{self.namespace}.svc", f"{self.service}.{self.namespace}", self.service)

    @property
    def secret_path(self) -> str:
        """API path of the Secret."""
        return f"/api/v1/namespaces/{self.namespace}/secrets/{self.secret}"

    @property
    def owner_path(self) -> str:
        """API path of the Deployment."""
        return f"/apis/apps/v1/namespaces/{self.namespace}/deployments/{self.owner}"

    @property
    def configuration_path(self) -> str:
        """API path of the MutatingWebhookConfiguration."""
        return f"{WEBHOOKS}/{self.configuration}"


class Certs:
    """The certificate of one release. With ``owned``, nothing is written once the Deployment that Kubernetes collects it with is gone."""

    def __init__(
        self,
        api: Api,
        names: ReleaseNames,
        lifetime: timedelta,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
        pause: Callable[[float], None] = sleep,
        *,
        owned: bool = False,
    ) -> None:
        self._api, self._names, self._lifetime, self._now, self._pause = api, names, lifetime, now, pause
        self._owned = owned

    def ensure(self, *, renew: bool = False, spare: Issued | None = None) -> Json:
        """Give the Secret a certificate for these names that is not due yet, and the Deployment as its owner; returns the Secret.

        ``renew`` issues a new certificate in any case. ``spare`` is the certificate of a running server, for a Secret that was deleted.
        Raises ApiError or CertsError.
        """
        for _ in range(_ATTEMPTS):
            owner = self.owner()
            owners = [owner] if owner else []
            secret = self._api.find(self._names.secret_path)
            # Its owner is a Deployment that is gone: Kubernetes collects it at any moment.
            if secret is not None and (belongs := secret["metadata"].get("ownerReferences")) and belongs != owners:
                self._api.delete(self._names.secret_path)
                secret = None
            current = _issued(secret) if secret else spare
            reason = "asked for" if renew else self._reason_to_renew(current)
            if secret and current and not reason and self._is_annotated(secret["metadata"], current, owners):
                return secret
            try:
                return self._write(current if current and not reason else self._new(current, reason), secret, owners)
            except ApiError as error:
                if error.status not in (CONFLICT, NOT_FOUND):
                    raise  # otherwise another writer was quicker: read what it wrote
        raise CertsError(
            f"Secret {self._names.namespace}/{self._names.secret} changes faster than it can be written: find out what else writes it"
        )

    def trust(self, secret: Json | None = None) -> bool:
        """Make the API server trust the CA of the Secret (read when not given); False when there is no webhook configuration.

        Raises ApiError or CertsError.
        """
        where = f"Secret {self._names.namespace}/{self._names.secret}"
        secret = secret or self._api.find(self._names.secret_path)
        if secret is None:
            raise CertsError(f"there is no {where}: create it, or run cmk certs create")
        ca = _issued(secret).ca
        if not pki.is_trusted(ca, ca):
            raise CertsError(f"{where} has no CA in ca.crt: put the CA there that signed tls.crt")
        return self._trust(ca, keep_current=False)

    def owner(self) -> Json | None:
        """Owner reference to the Deployment; None when there is none, before its first installation. Raises ApiError, or CertsError."""
        found = reference(self._api.find(self._names.owner_path), "apps/v1", "Deployment")
        if found is None and self._owned:
            where = f"{self._names.namespace}/{self._names.owner}"
            raise CertsError(f"Deployment {where} is gone, and the release with it: nothing is made anew")
        return found

    def _reason_to_renew(self, current: Issued | None) -> str:
        if current is None:
            return "there is none"
        if fault := pki.fault(current, self._names.dns_names, self._now()):
            return fault
        return "two thirds of its life are over" if pki.is_due(current, self._now()) else ""

    def _new(self, before: Issued | None, reason: str) -> Issued:
        issued = pki.issue(self._names.dns_names, self._now(), self._lifetime, before.ca if before else b"")
        log.info("new certificate until %s: %s", f"{pki.ends(issued.cert):%Y-%m-%d %H:%M} UTC", reason)
        # The CAs trusted now stay: a replica may still serve a certificate whose Secret is gone.
        if self._trust(issued.ca, keep_current=True):
            self._pause(SECONDS_TO_SPREAD)
        return issued

    def _write(self, issued: Issued, secret: Json | None, owners: list[Json]) -> Json:
        parts = {"tls.crt": issued.cert, "tls.key": issued.key, "ca.crt": issued.ca}
        base = secret or {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": self._names.secret}, "type": _TYPE}
        annotations = {**(base["metadata"].get("annotations") or {}), **self._annotations(issued)}
        body: Json = {
            **base,
            "metadata": {**base["metadata"], "ownerReferences": owners, "annotations": annotations},
            "data": {name: base64.b64encode(part).decode() for name, part in parts.items()},
        }
        log.info("writing Secret %s/%s", self._names.namespace, self._names.secret)
        if secret is None:
            # Applied, not posted: RBAC cannot limit a POST to a Secret of this name.
            return self._api.apply(self._names.secret_path, body, MANAGER)
        return self._api.replace(self._names.secret_path, body)

    def _annotations(self, issued: Issued) -> dict[str, str]:
        return {FOR: self._names.dns_names[0], UNTIL: f"{pki.ends(issued.cert):%Y-%m-%dT%H:%M:%SZ}"}

    def _is_annotated(self, meta: Json, issued: Issued, owners: list[Json]) -> bool:
        annotated = self._annotations(issued).items() <= (meta.get("annotations") or {}).items()
        return annotated and (meta.get("ownerReferences") or []) == owners

    def _trust(self, ca: bytes, *, keep_current: bool) -> bool:
        """Put CAs into the webhook configuration unless it has them, and keep or drop its present ones. False: no configuration."""
        configuration = self._api.find(self._names.configuration_path)
        if configuration is None:
            return False
        for index, webhook in enumerate(configuration.get("webhooks") or []):
            if webhook["name"] != WEBHOOK:
                continue
            current = base64.b64decode(webhook["clientConfig"].get("caBundle") or "")
            if not pki.is_trusted(ca, current):
                wanted = pki.bundle(ca, current, now=self._now()) if keep_current else ca
                self._api.json_patch(
                    self._names.configuration_path,
                    [
                        {"op": "test", "path": f"/webhooks/{index}/name", "value": WEBHOOK},
                        {
                            "op": "add",
                            "path": f"/webhooks/{index}/clientConfig/caBundle",
                            "value": base64.b64encode(wanted).decode(),
                        },
                    ],
                )
                log.info("wrote caBundle of MutatingWebhookConfiguration %s", self._names.configuration)
        return True


def reference(obj: Json | None, version: str, kind: str) -> Json | None:
    """The entry for an object in the ``ownerReferences`` of another; None without an object."""
    if obj is None:
        return None
    return {"apiVersion": version, "kind": kind, "name": obj["metadata"]["name"], "uid": obj["metadata"]["uid"]}


def _issued(secret: Json) -> Issued:
    data = secret.get("data") or {}
    cert, key, ca = (base64.b64decode(data.get(name) or "") for name in ("tls.crt", "tls.key", "ca.crt"))
    return Issued(cert, key, ca)
