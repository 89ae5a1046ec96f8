from __future__ import annotations

import base64
from datetime import UTC, datetime, timedelta

import pytest

from cmk.certificates import pki
from cmk.certificates.install import WEBHOOK, Certs, CertsError, ReleaseNames
from cmk.certificates.pki import Issued
from cmk.kube.client import ApiError, Json
from tests.unit.certificates.objects import Objects

RELEASE = ReleaseNames("cmk", "cmk-webhook-cert", "cmk-webhook", "cmk-webhook", "cmk-webhook")
START = datetime(2026, 3, 1, tzinfo=UTC)
LIFE = timedelta(days=90)


class World:
    """A cluster with what a test says, and a clock."""

    def __init__(self, *, configuration: bool = True, deployment: bool = True) -> None:
        self.api = Objects()
        self.now = START
        self.pauses: list[float] = []
        self.certs = Certs(self.api, RELEASE, LIFE, lambda: self.now, self.pauses.append)
        if configuration:
            self.configure()
        if deployment:
            self.api.put(RELEASE.owner_path, {"metadata": {"name": "cmk-webhook"}})

    def configure(self) -> None:
        webhooks = [{"name": "first", "clientConfig": {}}, {"name": WEBHOOK, "clientConfig": {"service": {}}}]
        self.api.put(RELEASE.configuration_path, {"metadata": {"name": "cmk-webhook"}, "webhooks": webhooks})

    @property
    def secret(self) -> Issued:
        data = self.api.get(RELEASE.secret_path)["data"]
        return Issued(*(base64.b64decode(data[name]) for name in ("tls.crt", "tls.key", "ca.crt")))

    @property
    def bundle(self) -> bytes:
        return base64.b64decode(self.api.get(RELEASE.configuration_path)["webhooks"][1]["clientConfig"].get("caBundle", ""))

    def change(self, path: str, **fields: Json | list[Json]) -> None:
        self.api.put(path, {**self.api.get(path), **fields})


def test_the_first_one_is_made_before_there_is_anything_else() -> None:
    world = World(configuration=False, deployment=False)
    world.certs.ensure()
    assert world.api.writes == ["apply as cmk-certs secrets"]
    assert world.api.get(RELEASE.secret_path)["type"] == "kubernetes.io/tls"
    assert pki.fault(world.secret, ["cmk-webhook.cmk.svc"], START) == ""
    assert world.pauses == []


def test_it_says_for_whom_and_until_when_it_is() -> None:
    world = World()
    world.certs.ensure()
    notes = {"cmk.intel.com/service": "cmk-webhook.cmk.svc", "cmk.intel.com/not-after": "2026-05-30T00:00:00Z"}
    assert world.api.get(RELEASE.secret_path)["metadata"]["annotations"] == notes


def test_one_that_does_not_say_so_stays_and_says_so_then() -> None:
    world = World()
    world.certs.ensure()
    before, known = world.secret, world.api.get(RELEASE.secret_path)
    world.change(RELEASE.secret_path, metadata={**known["metadata"], "annotations": {"a/b": "c"}})
    world.certs.ensure()
    notes = {"a/b": "c", **known["metadata"]["annotations"]}
    assert (world.secret, world.api.get(RELEASE.secret_path)["metadata"]["annotations"]) == (before, notes)


def test_a_good_one_stays() -> None:
    world = World()
    world.certs.ensure()
    world.api.writes.clear()
    world.now += timedelta(days=59)
    world.certs.ensure()
    assert world.api.writes == []


def test_two_thirds_on_the_new_ca_is_trusted_before_the_new_certificate_shows() -> None:
    world = World()
    world.certs.ensure()
    world.certs.trust()
    old = world.secret
    world.api.writes.clear()
    world.pauses.clear()
    world.now += timedelta(days=60)
    world.certs.ensure()
    assert world.api.writes == ["patch mutatingwebhookconfigurations", "replace secrets"]
    assert world.pauses == [2.0]
    assert world.secret.cert != old.cert
    assert pki.is_trusted(old.ca, world.bundle)
    assert pki.is_trusted(world.secret.ca, world.bundle)


def test_one_that_is_asked_for_is_made() -> None:
    world = World()
    world.certs.ensure()
    old = world.secret
    world.certs.ensure(renew=True)
    assert world.secret.cert != old.cert


@pytest.mark.parametrize("data", [{}, {"tls.crt": "AAAA"}, None], ids=["empty", "rubbish", "null"])
def test_what_somebody_wrote_over_it_is_mended(data: Json | None) -> None:
    world = World()
    world.certs.ensure()
    world.api.put(RELEASE.secret_path, {**world.api.get(RELEASE.secret_path), "data": data})
    world.certs.ensure()
    assert pki.fault(world.secret, ["cmk-webhook.cmk.svc"], START) == ""


def test_for_another_service_it_is_made_anew() -> None:
    world = World()
    world.certs.ensure()
    other = ReleaseNames("cmk", "cmk-webhook-cert", "other", "cmk-webhook", "cmk-webhook")
    Certs(world.api, other, LIFE, lambda: START, world.pauses.append).ensure()
    assert pki.fault(world.secret, ["other.cmk.svc"], START) == ""


def test_what_the_servers_still_show_comes_back_when_the_secret_is_deleted() -> None:
    world = World()
    world.certs.ensure()
    spare = world.secret
    world.api.delete(RELEASE.secret_path)
    world.certs.ensure(spare=spare)
    assert world.secret == spare


def test_what_a_server_may_still_show_stays_trusted_when_the_secret_is_lost() -> None:
    world = World()
    world.certs.ensure()
    world.certs.trust()
    lost = world.secret
    world.api.delete(RELEASE.secret_path)
    world.certs.ensure()
    assert world.secret.cert != lost.cert
    assert pki.is_trusted(lost.ca, world.bundle)
    assert pki.is_trusted(world.secret.ca, world.bundle)


def test_a_spare_that_is_no_good_is_not_used() -> None:
    world = World()
    world.certs.ensure()
    spare = world.secret
    world.api.delete(RELEASE.secret_path)
    world.now += LIFE
    world.certs.ensure(spare=spare)
    assert world.secret.cert != spare.cert


def test_a_secret_that_is_about_to_be_collected_with_a_release_before_is_not_relied_on() -> None:
    world = World()
    world.certs.ensure()
    world.api.store.pop(RELEASE.owner_path)
    old = world.secret
    world.certs.ensure()
    assert world.api.get(RELEASE.secret_path)["metadata"]["ownerReferences"] == []
    assert world.secret.cert != old.cert


def test_it_goes_with_the_deployment_once_there_is_one() -> None:
    world = World(deployment=False)
    world.certs.ensure()
    made = world.secret
    world.api.put(RELEASE.owner_path, {"metadata": {"name": "cmk-webhook"}})
    for _ in range(2):
        world.certs.ensure()
    uid = world.api.get(RELEASE.owner_path)["metadata"]["uid"]
    owner = {"apiVersion": "apps/v1", "kind": "Deployment", "name": "cmk-webhook", "uid": uid}
    assert world.api.get(RELEASE.secret_path)["metadata"]["ownerReferences"] == [owner]
    assert world.secret == made
    assert world.api.writes.count("replace secrets") == 1


def test_somebody_quicker_is_let_win() -> None:
    world = World(configuration=False)
    world.certs.ensure()
    world.now += timedelta(days=60)
    quicker = Certs(world.api, RELEASE, LIFE, lambda: world.now, world.pauses.append)
    world.api.before_write = quicker.ensure
    world.certs.ensure()
    first = world.secret
    world.certs.ensure()
    assert world.secret == first


def test_a_secret_that_never_stands_still_is_told_of() -> None:
    world = World(configuration=False)
    world.certs.ensure()

    def touch() -> None:
        world.api.put(RELEASE.secret_path, world.api.get(RELEASE.secret_path))
        world.api.before_write = touch

    world.api.before_write = touch
    with pytest.raises(CertsError, match="Secret cmk/cmk-webhook-cert changes faster than it can be written"):
        world.certs.ensure(renew=True)


def test_trust_is_written_into_our_webhook_alone_and_once() -> None:
    world = World()
    world.certs.ensure()
    assert world.certs.trust()
    assert world.bundle == world.secret.ca
    assert "caBundle" not in world.api.get(RELEASE.configuration_path)["webhooks"][0]["clientConfig"]
    world.api.writes.clear()
    assert world.certs.trust()
    assert world.api.writes == []


def test_more_cas_than_ours_are_left_alone() -> None:
    world = World()
    world.certs.ensure()
    more = pki.issue(["x"], START, LIFE).ca
    webhooks = [{"name": WEBHOOK, "clientConfig": {"caBundle": base64.b64encode(more + world.secret.ca).decode()}}]
    world.change(RELEASE.configuration_path, webhooks=webhooks)
    world.api.writes.clear()
    world.certs.trust()
    assert world.api.writes == []


@pytest.mark.parametrize("bundle", ["", "AAAA", base64.b64encode(pki.issue(["x"], START, LIFE).ca).decode()])
def test_a_bundle_without_ours_is_put_right(bundle: str) -> None:
    world = World()
    world.certs.ensure()
    world.change(RELEASE.configuration_path, webhooks=[{"name": WEBHOOK, "clientConfig": {"caBundle": bundle}}])
    world.certs.trust()
    assert (
        base64.b64decode(world.api.get(RELEASE.configuration_path)["webhooks"][0]["clientConfig"]["caBundle"]) == world.secret.ca
    )


def test_without_a_configuration_there_is_nothing_to_trust_with() -> None:
    world = World(configuration=False)
    world.certs.ensure()
    assert not world.certs.trust()


def test_a_secret_that_an_operator_brings_needs_its_ca() -> None:
    world = World()
    with pytest.raises(CertsError, match="there is no Secret cmk/cmk-webhook-cert"):
        world.certs.trust()
    world.api.put(RELEASE.secret_path, {"metadata": {"name": "s"}, "data": {"tls.crt": ""}})
    with pytest.raises(CertsError, match=r"has no CA in ca.crt: put the CA there that signed tls.crt"):
        world.certs.trust()


def test_what_the_api_refuses_is_passed_on(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World()

    def refuse(*_: object) -> None:
        raise ApiError("forbidden", 403)

    monkeypatch.setattr(world.api, "apply", refuse)
    with pytest.raises(ApiError, match="forbidden"):
        world.certs.ensure()
