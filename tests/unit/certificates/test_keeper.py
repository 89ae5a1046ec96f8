from __future__ import annotations

import json
import logging
import threading
from datetime import timedelta
from pathlib import Path

import pytest

from cmk.certificates.install import WEBHOOK, Certs
from cmk.certificates.keeper import CertificateMode, Keeper
from cmk.kube.client import ApiError
from cmk.kube.lease import Creation, Lease
from tests.unit.certificates.test_install import RELEASE, World

LEASE = "/apis/coordination.k8s.io/v1/namespaces/cmk/leases/cmk-webhook"
ROLE = "/apis/rbac.authorization.k8s.io/v1/clusterroles/cmk-webhook"
MANIFEST = {
    "apiVersion": "admissionregistration.k8s.io/v1",
    "kind": "MutatingWebhookConfiguration",
    "metadata": {"name": "cmk-webhook"},
    "webhooks": [{"name": "first", "clientConfig": {}}, {"name": WEBHOOK, "clientConfig": {}}],
}


def keeper(world: World, tmp_path: Path, mode: CertificateMode = CertificateMode.HOOKS, name: str = "one") -> Keeper:
    (tmp_path / "webhook.json").write_text(json.dumps(MANIFEST))
    lease = Lease(world.api, "cmk", "cmk-webhook", name, Creation("cmk-certs", world.certs.owner))
    world.api.put(ROLE, {"metadata": {"name": "cmk-webhook"}})
    return Keeper(world.api, world.certs, lease, RELEASE, mode, tmp_path / "webhook.json", tmp_path)


def test_everything_from_nothing(tmp_path: Path) -> None:
    world = World(configuration=False)
    keeper(world, tmp_path).turn()
    assert world.bundle == world.secret.ca
    assert world.api.get(RELEASE.secret_path)["metadata"]["ownerReferences"]
    assert world.api.get(RELEASE.configuration_path)["metadata"]["ownerReferences"][0]["kind"] == "ClusterRole"


def test_a_second_turn_writes_nothing_but_the_lease(tmp_path: Path) -> None:
    world = World()
    kept = keeper(world, tmp_path)
    kept.turn()
    world.api.writes.clear()
    kept.turn()
    assert world.api.writes == ["replace leases"]


def test_the_configuration_comes_back_in_helms_name(tmp_path: Path) -> None:
    world = World()
    kept = keeper(world, tmp_path)
    kept.turn()
    bundle = world.bundle
    world.api.delete(RELEASE.configuration_path)
    world.api.writes.clear()
    kept.turn()
    assert "apply as helm mutatingwebhookconfigurations" in world.api.writes
    assert world.bundle == bundle


def test_not_when_the_release_is_on_its_way_out(tmp_path: Path) -> None:
    world = World(configuration=False)
    kept = keeper(world, tmp_path)
    world.api.store.pop(ROLE)
    kept.turn()
    assert RELEASE.configuration_path not in world.api.store


def test_nothing_is_made_anew_once_the_deployment_is_gone(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A pod that is about to end would make Secret and Lease anew, which nothing would collect then."""
    world = World()
    world.certs = Certs(world.api, RELEASE, timedelta(days=1), owned=True)
    kept = keeper(world, tmp_path)
    kept.turn()
    for path in (RELEASE.owner_path, RELEASE.secret_path, LEASE):
        world.api.store.pop(path)
    kept.turn()
    assert (RELEASE.secret_path in world.api.store, LEASE in world.api.store) == (False, False)
    assert "Deployment cmk/cmk-webhook is gone" in caplog.text


def test_the_secret_is_not_made_anew_once_the_deployment_is_gone(tmp_path: Path) -> None:
    world = World()
    world.certs = Certs(world.api, RELEASE, timedelta(days=1), owned=True)
    kept = keeper(world, tmp_path)
    kept.turn()
    for path in (RELEASE.owner_path, RELEASE.secret_path):
        world.api.store.pop(path)
    kept.turn()
    assert RELEASE.secret_path not in world.api.store


FILES = ("tls.crt", "tls.key", "ca.crt")


@pytest.mark.parametrize("gone", [(), FILES, FILES[:1]], ids=["mounted", "gone", "going"])
def test_the_secret_comes_back_as_the_servers_have_it(tmp_path: Path, gone: tuple[str, ...]) -> None:
    """Also when kubelet has taken the files away with it: servers go on with what they have read."""
    world = World()
    kept = keeper(world, tmp_path)
    kept.turn()
    served = world.secret
    for name, data in zip(FILES, (served.cert, served.key, served.ca), strict=True):
        (tmp_path / name).write_bytes(data)
    kept.turn()
    for name in gone:
        (tmp_path / name).unlink()
    world.api.delete(RELEASE.secret_path)
    kept.turn()
    assert world.secret == served


def test_who_has_not_the_lease_does_nothing(tmp_path: Path) -> None:
    world = World()
    assert Lease(world.api, "cmk", "cmk-webhook", "other", Creation("cmk-certs", world.certs.owner)).hold()
    kept = keeper(world, tmp_path)
    kept.turn()
    assert RELEASE.secret_path not in world.api.store


@pytest.mark.parametrize("mode", [CertificateMode.CERT_MANAGER, CertificateMode.SECRET])
def test_a_certificate_of_somebody_else_is_not_touched(tmp_path: Path, mode: CertificateMode) -> None:
    world = World(configuration=False)
    world.certs.ensure()
    theirs = world.api.get(RELEASE.secret_path)
    keeper(world, tmp_path, mode).turn()
    assert world.api.get(RELEASE.secret_path) == theirs
    assert bool(world.bundle) == (mode is CertificateMode.SECRET)


def test_what_goes_wrong_is_told_once_and_tried_again(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    caplog.set_level(logging.INFO)
    world = World()
    kept = keeper(world, tmp_path)

    def down(*_: object, **__: object) -> None:
        raise ApiError("cannot reach the API server")

    with monkeypatch.context() as patched:
        patched.setattr(world.api, "get", down)
        kept.turn()
        kept.turn()
    assert caplog.text.count("cannot reach the API server; trying again") == 1
    kept.turn()
    assert "no more problems" in caplog.text


def test_it_gives_the_lease_back_when_it_leaves(tmp_path: Path) -> None:
    world = World()
    stop = threading.Event()
    kept = keeper(world, tmp_path)
    thread = threading.Thread(target=kept.run, args=(stop,))
    thread.start()
    while RELEASE.secret_path not in world.api.store:
        pass
    stop.set()
    thread.join()
    (lease,) = (found for path, found in world.api.store.items() if "/leases/" in path)
    assert lease["spec"]["holderIdentity"] == ""
