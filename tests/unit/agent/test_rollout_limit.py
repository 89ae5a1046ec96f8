from __future__ import annotations

import asyncio
import logging

import pytest

from cmk.agent.rollout_limit import RolloutLimit
from cmk.kube.client import ApiError, Json
from tests.unit.certificates.objects import Objects

PATH = "/apis/coordination.k8s.io/v1/namespaces/ns/leases/cmk-rollout-"
BUSY = "for its turn: rollout.maxUnavailable nodes are changing already"


class Leases(Objects):
    """Leases by their number, with whom each is held by; under the agent's RBAC, which may get and update them."""

    def __init__(self, holders: dict[int, str]) -> None:
        super().__init__()
        for number, holder in holders.items():
            spec = {"holderIdentity": holder, "leaseDurationSeconds": 15}
            self.put(f"{PATH}{number}", {"metadata": {"name": f"cmk-rollout-{number}"}, "spec": spec})

    def apply(self, path: str, body: Json, manager: str) -> Json:
        raise ApiError(f"PATCH {path}: 403 leases is forbidden", 403)

    @property
    def holders(self) -> dict[int, str]:
        return {int(path.removeprefix(PATH)): lease["spec"]["holderIdentity"] for path, lease in self.store.items()}

    def limit(self) -> RolloutLimit:
        return RolloutLimit(self, "ns", "cmk-rollout", "me")


@pytest.mark.parametrize(
    ("holders", "limit", "waits", "after"),
    [
        ({0: ""}, 0, "", {0: ""}),
        ({0: "", 1: ""}, 2, "", {0: "me", 1: ""}),
        ({0: "other", 1: ""}, 2, "", {0: "other", 1: "me"}),
        ({0: "other", 1: "third"}, 2, BUSY, {0: "other", 1: "third"}),
        ({0: "other", 1: ""}, 1, BUSY, {0: "other", 1: ""}),
        ({1: ""}, 2, "", {1: "me"}),
        ({0: "other", 2: ""}, 3, "", {0: "other", 2: "me"}),
        (
            {1: "other"},
            2,
            "for its turn; helm upgrade creates Lease cmk-rollout-0 again, so that more nodes change at a time",
            {1: "other"},
        ),
        (
            {},
            2,
            "until helm upgrade has created Lease cmk-rollout-0, cmk-rollout-1 again (rollout.maxUnavailable)",
            {},
        ),
    ],
    ids=["no limit", "free", "second", "full", "lower limit", "first deleted", "middle deleted", "rest full", "all deleted"],
)
def test_a_node_changes_while_it_holds_one_of_the_leases(
    holders: dict[int, str], limit: int, waits: str, after: dict[int, str]
) -> None:
    leases = Leases(holders)
    assert asyncio.run(leases.limit().acquire(limit)) == waits
    assert leases.holders == after


def test_a_missing_lease_is_logged_once_until_it_has_been_back(caplog: pytest.LogCaptureFixture) -> None:
    leases = Leases({0: "other", 1: ""})
    limit = leases.limit()

    async def run() -> None:
        lease = leases.store.pop(f"{PATH}0")
        await limit.acquire(2)
        await limit.acquire(2)
        leases.store[f"{PATH}0"] = lease
        await limit.acquire(2)
        del leases.store[f"{PATH}0"]
        await limit.acquire(2)

    with caplog.at_level(logging.WARNING):
        asyncio.run(run())
    warning = "namespace ns lacks Lease cmk-rollout-0 (rollout.maxUnavailable); helm upgrade creates it"
    assert [record.getMessage() for record in caplog.records] == [warning] * 2


def test_a_released_lease_is_free_for_others() -> None:
    leases = Leases({0: ""})
    limit = leases.limit()

    async def run() -> None:
        await limit.acquire(1)
        await limit.release()
        await limit.release()

    asyncio.run(run())
    assert leases.holders == {0: ""}


def test_a_lease_that_cannot_be_released_expires_by_itself(caplog: pytest.LogCaptureFixture) -> None:
    leases = Leases({0: ""})
    limit = leases.limit()

    async def run() -> None:
        await limit.acquire(1)
        leases.store.clear()
        await limit.release()

    asyncio.run(run())
    assert "cannot release Lease cmk-rollout-0" in caplog.text
