from __future__ import annotations

from typing import Any

import msgspec
import pytest

from cmk.agent.slim_pod import slim
from cmk.isolation.conflicts import manager_of
from cmk.kube import shapes
from cmk.legacy.running import removal_of_daemons
from cmk.model import pods

LONG = "x" * (1400 << 10)
CORES = {"resources": {"limits": {"cmk.intel.com/exclusive-cores": "2", "cpu": "1"}}}
LOOP = {"command": ["/bin/bash", "-c"], "args": ["sleep 1; /cmk/cmk.py  reconcile --interval=5", LONG]}

OWN = ["/opt/cmk"]
ROOT = [{}, {"name": "host", "hostPath": {"path": "/proc", "type": ""}}, {"hostPath": {"path": "/opt/cmk"}}]


def reaching(item: dict[str, Any], **spec: Any) -> dict[str, Any]:  # noqa: ANN401
    return {**item, "spec": {**item["spec"], **spec}}


def pod(containers: list[Any], inits: Any = None, **meta: Any) -> dict[str, Any]:  # noqa: ANN401
    return {
        "metadata": {"name": "p", "namespace": "ns", "uid": "u", "resourceVersion": "1", **meta},
        "spec": {"containers": containers, "initContainers": inits, "volumes": [{}] * 1000},
        "status": {"phase": "Running", "message": LONG},
    }


PODS: dict[str, Any] = {
    "nothing": pod([{"image": "app"}]),
    "cores": pod([{"image": "app"}, CORES]),
    "cores of a sidecar": pod([CORES], [{"restartPolicy": "Always", **CORES}, {"image": "a"}, CORES]),
    "long arguments": pod([{"image": LONG, "args": [LONG, "a"], **CORES}]),
    "very many containers": pod([{"image": "app", "resources": {}}] * 7000),
    "labels": pod([], labels={"a": LONG}, annotations={"a": LONG, "cmk.intel.com/on-move": "follow"}),
    "static": pod([], annotations={"kubernetes.io/config.hash": "h", "kubernetes.io/config.mirror": "h"}),
    "not static": pod([], annotations={"kubernetes.io/config.hash": "h"}),
    "another manager": pod([{"image": "app"}, {"image": "a/cpusetter:1"}, {"image": "dracpu"}]),
    "another manager with host paths": reaching(pod([{"image": "a/cpusetter:1"}]), volumes=ROOT),
    "another manager with cmk's host path": reaching(pod([{"image": "a/cpusetter:1"}]), volumes=ROOT[2:]),
    "another manager with privileges": pod([{"image": "a/cpusetter:1"}, {"securityContext": {"privileged": True}}]),
    "another manager that sees the host's processes": reaching(pod([{"image": "a/cpusetter:1"}]), hostPID=True),
    "an unprivileged manager": pod([{"image": "a/cpusetter:1", "securityContext": {"privileged": False}}]),
    "a loop of CMK": pod([{}, LOOP]),
    "a loop of CMK with host paths": reaching(pod([{}, LOOP]), volumes=ROOT),
    "a loop of CMK in a comment": reaching(pod([{"args": ["true # cmk reconcile"]}]), volumes=ROOT),
    "a loop after a million blanks": pod([{"args": ["cmk" + " " * 10**6 + "node-report"]}]),
    "owners": pod(
        [LOOP], ownerReferences=[*[{"kind": "A", "name": "a"}] * 9, {"kind": "DaemonSet", "name": "d", "controller": True}]
    ),
    "a long owner": pod([LOOP], ownerReferences=[{"kind": LONG, "name": LONG, "controller": True}]),
    "a manager with a long image": pod([{"image": f"{LONG}/cpusetter:{LONG}", "securityContext": {"privileged": True}}]),
    "very many privileged containers": pod([{"securityContext": {"privileged": True}}] * 15000),
    "two managers": reaching(
        pod([{"image": "a/cpusetter:1"}, {"image": "dracpu", **CORES}, {"image": "a/cpusetter:2"}]), hostPID=True
    ),
    "an owner": pod([LOOP], ownerReferences=[{"kind": "A", "name": "a"}]),
    "null": {**pod([]), "status": None},
    "terminal": {**pod([CORES]), "status": {"phase": "Failed"}},
}


@pytest.mark.parametrize("item", PODS.values(), ids=PODS)
def test_a_slim_pod_says_the_same_to_those_who_read_it(item: Any) -> None:  # noqa: ANN401
    found = shapes.check(slim(item), shapes.BoundPodShape, "it")
    assert pods.from_json(found) == pods.from_json(item)
    assert manager_of(found, OWN) == manager_of(item, OWN)
    assert removal_of_daemons([found], OWN) == removal_of_daemons([item], OWN)


@pytest.mark.parametrize("item", PODS.values(), ids=PODS)
def test_a_slim_pod_is_small(item: Any) -> None:  # noqa: ANN401
    assert len(msgspec.json.encode(slim(item))) < 1000


@pytest.mark.parametrize("item", [None, 3, {}, {"metadata": {"uid": "u"}}, {**pod([]), "spec": {"containers": [None]}}])
def test_what_is_no_pod_stays_for_those_who_report_it(item: Any) -> None:  # noqa: ANN401
    assert slim(item) is item
