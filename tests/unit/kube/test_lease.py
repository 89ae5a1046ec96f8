from __future__ import annotations

import pytest

from cmk.kube.client import Json
from cmk.kube.lease import DURATION_SECONDS, Creation, Lease, LeaseMissingError
from tests.unit.certificates.objects import Objects

PATH = "/apis/coordination.k8s.io/v1/namespaces/ns/leases/lease"


class Holders:
    """Two that want the same Lease, with a clock each."""

    def __init__(self) -> None:
        self.api = Objects()
        self.time = 0.0
        self.one, self.two = (
            Lease(self.api, "ns", "lease", name, Creation("us", lambda: None), lambda: self.time) for name in ("one", "two")
        )

    @property
    def spec(self) -> Json:
        return dict(self.api.get(PATH)["spec"])


def test_the_first_gets_it_and_keeps_it() -> None:
    holders = Holders()
    assert holders.one.hold()
    assert not holders.two.hold()
    assert holders.one.hold()
    assert holders.spec["leaseTransitions"] == 1


def test_who_is_seen_to_stand_still_loses_it() -> None:
    holders = Holders()
    holders.one.hold()
    assert not holders.two.hold()
    holders.time += DURATION_SECONDS - 1
    assert not holders.two.hold()
    holders.time += 1
    assert holders.two.hold()
    assert not holders.one.hold()
    assert holders.spec["leaseTransitions"] == 2


def test_who_renews_does_not_lose_it_whatever_the_clocks_say() -> None:
    holders = Holders()
    for _ in range(5):
        assert holders.one.hold()
        holders.api.store[PATH]["spec"]["renewTime"] = "1970-01-01T00:00:00.000000Z"
        assert not holders.two.hold()
        holders.time += DURATION_SECONDS - 1


def test_what_is_given_back_is_free_at_once() -> None:
    holders = Holders()
    holders.one.hold()
    holders.two.release()
    assert not holders.two.hold()
    holders.one.release()
    assert holders.two.hold()


def test_of_two_that_take_it_over_one_does() -> None:
    holders = Holders()
    holders.one.hold()
    holders.one.release()
    taken: list[bool] = []
    holders.api.before_write = lambda: taken.append(holders.two.hold())
    assert not holders.one.hold()
    assert taken == [True]


def test_it_goes_with_its_owner() -> None:
    api = Objects()
    owner = {"apiVersion": "apps/v1", "kind": "Deployment", "name": "d", "uid": "u"}
    Lease(api, "ns", "lease", "one", Creation("us", lambda: owner)).hold()
    assert api.get(PATH)["metadata"]["ownerReferences"] == [owner]
    assert api.writes == ["apply as us leases"]


def test_a_missing_lease_is_created_only_where_the_caller_says_how() -> None:
    api = Objects()
    with pytest.raises(LeaseMissingError, match="leases/lease"):
        Lease(api, "ns", "lease", "one").hold()
    assert api.writes == []
