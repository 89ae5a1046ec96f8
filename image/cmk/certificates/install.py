"""The webhook's certificate on the API: its Secret, and the CA that the API server is told to trust.

A change loses no call because its order is: trust the new CA besides the old one, then show the new certificate. Who reads the Secret late
goes on showing the old one, and is still trusted.
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
# For every API server's watch to have told it of a new CA, before a server may show a certificate from it.
SETTLE_SECONDS = 2.0
# What the chart goes by when it leaves out a hook that has nothing to do: for whom the certificate is, and until when (UTC, RFC 3339).
FOR, UNTIL = "cmk.intel.com/service", "cmk.intel.com/not-after"
_ATTEMPTS = 5
_TYPE = "kubernetes.io/tls"


class CertsError(CmkError):
    """The certificate cannot be made or put in place; the text says what to do."""


class ReleaseNames(msgspec.Struct, frozen=True):
    """Names of the API objects that one release's webhook has. ``owner`` is the Deployment that Secret and Lease go with; the ClusterRole is named as the configuration is."""

    namespace: str
    secret: str
    service: str
    configuration: str
    owner: str

    @property
    def dns_names(self) -> tuple[str, ...]:
        """What the API server calls the service."""
        return (f"{self.service}.{self.namespace}.svc", f"{self.service}.{self.namespace}", self.service)

    @property
    def secret_path(self) -> str:
        """The Secret."""
        return f"/api/v1/namespaces/{self.namespace}/secrets/{self.secret}"

    @property
    def owner_path(self) -> str:
        """The Deployment."""
        return f"/apis/apps/v1/namespaces/{self.namespace}/deployments/{self.owner}"

    @property
    def configuration_path(self) -> str:
        """The MutatingWebhookConfiguration."""
        return f"{WEBHOOKS}/{self.configuration}"


class Certs:
    """The certificate of one release."""

    def __init__(
        self,
        api: Api,
        names: ReleaseNames,
        lifetime: timedelta,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
        settle: Callable[[float], None] = sleep,
    ) -> None:
        self._api, self._names, self._lifetime, self._now, self._settle = api, names, lifetime, now, settle

    def ensure(self, *, renew: bool = False, spare: Issued | None = None) -> Json:
        """Have the Secret hold a certificate that serves these names for a good while, and go when the Deployment goes; returns it.

        ``renew`` makes a new one whatever is there. ``spare`` is what a running server holds, for a Secret that somebody deleted. Raises
        ApiError or CertsError.
        """
        for _ in range(_ATTEMPTS):
            owner = self.owner()
            owners = [owner] if owner else []
            secret = self._api.find(self._names.secret_path)
            # Belongs to a Deployment that is gone: it will be collected at any moment.
            if secret is not None and (belongs := secret["metadata"].get("ownerReferences")) and belongs != owners:
                self._api.delete(self._names.secret_path)
                secret = None
            have = _issued(secret) if secret else spare
            why = "asked for" if renew else self._reason(have)
            if secret and have and not why and self._marked(secret["metadata"], have, owners):
                return secret
            try:
                return self._write(have if have and not why else self._new(have, why), secret, owners)
            except ApiError as error:
                if error.status not in (CONFLICT, NOT_FOUND):
                    raise  # otherwise somebody else wrote it meanwhile: see what
        raise CertsError(f"Secret {self._names.namespace}/{self._names.secret} keeps changing under us: who else writes it?")

    def trust(self, secret: Json | None = None) -> bool:
        """Have the API server trust the CA of the Secret (read when not given); False when there is no webhook configuration.

        Raises ApiError or CertsError.
        """
        where = f"Secret {self._names.namespace}/{self._names.secret}"
        secret = secret or self._api.find(self._names.secret_path)
        if secret is None:
            raise CertsError(f"there is no {where}")
        ca = _issued(secret).ca
        if not pki.is_trusted(ca, ca):
            raise CertsError(f"{where} has no CA in ca.crt: put the one there that signed tls.crt")
        return self._trust(ca, besides=False)

    def owner(self) -> Json | None:
        """Reference to the Deployment, if there is one. Raises ApiError."""
        return reference(self._api.find(self._names.owner_path), "apps/v1", "Deployment")

    def _reason(self, have: Issued | None) -> str:
        if have is None:
            return "there is none"
        if fault := pki.fault(have, self._names.dns_names, self._now()):
            return fault
        return "two thirds of its life are over" if pki.is_due(have, self._now()) else ""

    def _new(self, before: Issued | None, why: str) -> Issued:
        issued = pki.issue(self._names.dns_names, self._now(), self._lifetime, before.ca if before else b"")
        log.info("new certificate until %s: %s", f"{pki.ends(issued.cert):%Y-%m-%d %H:%M} UTC", why)
        # Besides whatever is trusted now: a server may still show a certificate whose Secret is gone.
        if self._trust(issued.ca, besides=True):
            self._settle(SETTLE_SECONDS)
        return issued

    def _write(self, issued: Issued, secret: Json | None, owners: list[Json]) -> Json:
        parts = {"tls.crt": issued.cert, "tls.key": issued.key, "ca.crt": issued.ca}
        known = secret or {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": self._names.secret}, "type": _TYPE}
        notes = {**(known["metadata"].get("annotations") or {}), **self._notes(issued)}
        body: Json = {
            **known,
            "metadata": {**known["metadata"], "ownerReferences": owners, "annotations": notes},
            "data": {name: base64.b64encode(part).decode() for name, part in parts.items()},
        }
        log.info("writing Secret %s/%s", self._names.namespace, self._names.secret)
        if secret is None:
            # Applied, not posted: of a POST, RBAC cannot know whether it makes our Secret or another.
            return self._api.apply(self._names.secret_path, body, MANAGER)
        return self._api.replace(self._names.secret_path, body)

    def _notes(self, issued: Issued) -> dict[str, str]:
        return {FOR: self._names.dns_names[0], UNTIL: f"{pki.ends(issued.cert):%Y-%m-%dT%H:%M:%SZ}"}

    def _marked(self, meta: Json, issued: Issued, owners: list[Json]) -> bool:
        notes = self._notes(issued).items() <= (meta.get("annotations") or {}).items()
        return notes and (meta.get("ownerReferences") or []) == owners

    def _trust(self, ca: bytes, *, besides: bool) -> bool:
        """Put CAs into the webhook configuration unless they are there, ``besides`` those there or in their place. False: there is none."""
        configuration = self._api.find(self._names.configuration_path)
        if configuration is None:
            return False
        for index, webhook in enumerate(configuration.get("webhooks") or []):
            if webhook["name"] != WEBHOOK:
                continue
            have = base64.b64decode(webhook["clientConfig"].get("caBundle") or "")
            if not pki.is_trusted(ca, have):
                wanted = pki.bundle(ca, have, now=self._now()) if besides else ca
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
    """What an object is called in the ``ownerReferences`` of another."""
    if obj is None:
        return None
    return {"apiVersion": version, "kind": kind, "name": obj["metadata"]["name"], "uid": obj["metadata"]["uid"]}


def _issued(secret: Json) -> Issued:
    data = secret.get("data") or {}
    cert, key, ca = (base64.b64decode(data.get(name) or "") for name in ("tls.crt", "tls.key", "ca.crt"))
    return Issued(cert, key, ca)
