"""The keeper renews the webhook's certificate in time, and restores the objects around it when somebody deletes them.

It runs in a container of its own beside each replica of the webhook: this container has credentials, the one that anybody can send reviews
to has none. Of all keepers, the holder of a Lease works.
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
    """Who issues the certificate: the chart's hooks and the keeper, cert-manager, or the operator, who brings a Secret."""

    HOOKS = "hooks"
    CERT_MANAGER = "certManager"
    SECRET = "secret"  # noqa: S105  # the word of the chart's values


class Keeper:
    """The loop. ``manifest`` is the MutatingWebhookConfiguration as the chart rendered it, ``files`` the mounted Secret."""

    def __init__(
        self, api: Api, certs: Certs, lease: Lease, names: ReleaseNames, mode: CertificateMode, manifest: Path, files: Path
    ) -> None:
        self._api, self._certs, self._lease, self._names = api, certs, lease, names
        self._mode, self._manifest, self._files = mode, manifest, files
        self._problem = ""
        self._spare: Issued | None = None

    def run(self, stop: threading.Event) -> None:
        """Take turns until ``stop`` is set, then release the Lease."""
        while not stop.is_set():
            self.turn()
            stop.wait(INTERVAL_SECONDS)
        try:
            self._lease.release()
        except ApiError as error:
            log.warning("lease: %s", error)  # it expires by itself

    def turn(self) -> None:
        """If the Lease is ours, restore and renew what needs it. A problem is logged when it begins and tried again at each turn."""
        problem = ""
        try:
            if self._lease.hold():
                self._maintain()
        except (ApiError, CertsError, OSError) as error:
            problem = str(error)
        if problem and problem != self._problem:
            log.warning("%s; trying again", problem)
        elif self._problem and not problem:
            log.info("no more problems")
        self._problem = problem

    def _maintain(self) -> None:
        secret = self._certs.ensure(spare=self._served()) if self._mode is CertificateMode.HOOKS else None
        if self._mode is CertificateMode.CERT_MANAGER:
            if self._api.find(self._names.configuration_path) is None:
                self._restore()
        elif not self._certs.trust(secret) and self._restore():
            self._certs.trust(secret)

    def _restore(self) -> bool:
        """Create the webhook configuration anew, with Helm as field manager, so that Helm's next upgrade takes it for its own.

        Its owner is the release's ClusterRole, so that it goes with a release that is being uninstalled; False when that is gone already.
        """
        body: Json = json.loads(self._manifest.read_bytes())
        owner = reference(self._api.find(f"{_ROLES}/{self._names.configuration}"), "rbac.authorization.k8s.io/v1", "ClusterRole")
        if owner is None:
            return False
        body["metadata"]["ownerReferences"] = [owner]
        self._api.apply(self._names.configuration_path, body, "helm")
        log.warning("MutatingWebhookConfiguration %s was gone: created it anew", self._names.configuration)
        return True

    def _served(self) -> Issued | None:
        """The certificate of the server in this pod, which keeps what it has read when kubelet removes the files along with the Secret."""
        with suppress(OSError):  # no Secret, or not yet
            cert, key, ca = ((self._files / name).read_bytes() for name in ("tls.crt", "tls.key", "ca.crt"))
            self._spare = Issued(cert, key, ca)
        return self._spare
