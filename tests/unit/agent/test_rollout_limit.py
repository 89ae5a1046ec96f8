from __future__ import annotations

import asyncio

from cmk.agent.rollout_limit import Slots
from cmk.kube.client import Json
from tests.unit.kube.apiserver import serving

PATH = "/apis/coordination.k8s.io/v1/namespaces/ns/leases/cmk-rollout-"


def lease(holder: str, version: str = "1") -> Json:
    return {"metadata": {"name": "x", "resourceVersion": version}, "spec": {"holderIdentity": holder, "leaseDurationSeconds": 15}}


def test_without_a_limit_nobody_is_asked() -> None:
    with serving() as server:
        assert asyncio.run(Slots(server.api, "ns", "cmk-rollout", "me").take(0))
    assert server.seen == []


def test_the_first_that_is_free_is_taken_and_given_back() -> None:
    async def turn(slots: Slots) -> bool:
        taken = await slots.take(2)
        await slots.give_back()
        await slots.give_back()
        return taken

    with serving((200, lease("other")), (200, lease("")), (200, {}), (200, lease("me")), (200, {})) as server:
        assert asyncio.run(turn(Slots(server.api, "ns", "cmk-rollout", "me")))
    asked = [(method, path) for method, path, *_ in server.seen]
    assert asked == [("GET", f"{PATH}0"), ("GET", f"{PATH}1"), ("PUT", f"{PATH}1"), ("GET", f"{PATH}1"), ("PUT", f"{PATH}1")]
    assert server.seen[-1][3]["spec"]["holderIdentity"] == ""


def test_when_all_are_taken_one_has_to_wait() -> None:
    with serving((200, lease("other")), (200, lease("third"))) as server:
        assert not asyncio.run(Slots(server.api, "ns", "cmk-rollout", "me").take(2))


def test_a_lease_that_cannot_be_given_back_runs_out() -> None:
    async def turn(slots: Slots) -> bool:
        taken = await slots.take(1)
        await slots.give_back()
        return taken

    with serving((200, lease("")), (200, {}), (500, {"message": "no"})) as server:
        assert asyncio.run(turn(Slots(server.api, "ns", "cmk-rollout", "me")))
