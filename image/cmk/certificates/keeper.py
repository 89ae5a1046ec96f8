"""Between upgrades: renews the webhook's certificate in time, and puts back what somebody took away.

One per webhook pod, in a container of its own: only this one has credentials, the one that reads what strangers send has none. Of all of
them the holder of a Lease works.
"""

from __future__ import annotations

import json
import logging
import threading
from contextlib import suppress
from enum import StrEnum
from pathlib import Path

from cmk.certificates.install import Certs, CertsError, ReleaseNames, reference
from cmk.certificates.pki import Issued
from cmk.kube.client import Api, ApiError, Json
from cmk.kube.lease import Lease

log = logging.getLogger(__name__)

INTERVAL_SECONDS = 3.0
_ROLES = "/apis/rbac.authorization.k8s.io/v1/clusterroles"


class CertificateMode(StrEnum):
    """Whose certificate it is: ours, cert-manager's, or one that the operator brings."""

    HOOKS = "hooks"
    CERT_MANAGER = "certManager"
    SECRET = "secret"  # noqa: S105  # the word of the chart's values


class Keeper:
    """``manifest`` is the MutatingWebhookConfiguration as the chart rendered it, ``files`` the mounted Secret."""

    def __init__(
        self, api: Api, certs: Certs, lease: Lease, names: ReleaseNames, mode: CertificateMode, manifest: Path, files: Path
    ) -> None:
        self._api, self._certs, self._lease, self._names = api, certs, lease, names
        self._mode, self._manifest, self._files = mode, manifest, files
        self._problem = ""
        self._spare: Issued | None = None

    def run(self, stop: threading.Event) -> None:
        """Look after everything until told to stop."""
        while not stop.is_set():
            self.turn()
            stop.wait(INTERVAL_SECONDS)
        try:
            self._lease.release()
        except ApiError as error:
            log.warning("lease: %s", error)  # it runs out by itself

    def turn(self) -> None:
        """Once: if the Lease is ours, put right what is wrong; what cannot be is told once and tried again."""
        problem = ""
        try:
            if self._lease.hold():
                self._look()
        except (ApiError, CertsError, OSError) as error:
            problem = str(error)
        if problem and problem != self._problem:
            log.warning("%s; trying again", problem)
        elif self._problem and not problem:
            log.info("all is well again")
        self._problem = problem

    def _look(self) -> None:
        secret = self._certs.ensure(spare=self._served()) if self._mode is CertificateMode.HOOKS else None
        if self._mode is CertificateMode.CERT_MANAGER:
            if self._api.find(self._names.configuration_path) is None:
                self._restore()
        elif not self._certs.trust(secret) and self._restore():
            self._certs.trust(secret)

    def _restore(self) -> bool:
        """Make the webhook configuration anew, as Helm would, so that Helm's next upgrade finds its own; False when it must not be.

        It belongs to the ClusterRole of the release: should the release be on its way out, this goes with it.
        """
        body: Json = json.loads(self._manifest.read_bytes())
        owner = reference(self._api.find(f"{_ROLES}/{self._names.configuration}"), "rbac.authorization.k8s.io/v1", "ClusterRole")
        if owner is None:
            return False
        body["metadata"]["ownerReferences"] = [owner]
        self._api.apply(self._names.configuration_path, body, "helm")
        log.warning("MutatingWebhookConfiguration %s was gone: made it anew", self._names.configuration)
        return True

    def _served(self) -> Issued | None:
        """What the server beside us holds: kubelet takes the files away with the Secret, and the server goes on with what it has read."""
        with suppress(OSError):  # there is none, or none yet
            cert, key, ca = ((self._files / name).read_bytes() for name in ("tls.crt", "tls.key", "ca.crt"))
            self._spare = Issued(cert, key, ca)
        return self._spare
