from typing import Any

import pytest

from cmk.model import pods

NAME = "cmk.intel.com/exclusive-cores"


def container(count: int, where: str = "limits", **more: object) -> dict[str, object]:
    return {"resources": {where: {NAME: str(count), "cpu": "500m"}}, **more}


def sidecar(count: int) -> dict[str, object]:
    return container(count, restartPolicy="Always")


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        ({}, 0),
        ({"containers": [{}]}, 0),
        ({"containers": [container(1), container(2, "requests")]}, 3),
        ({"containers": [container(1)], "initContainers": [container(4)]}, 4),
        ({"containers": [container(3)], "initContainers": [container(1), container(2)]}, 3),
        ({"containers": [container(1)], "initContainers": [sidecar(1)]}, 2),
        ({"containers": [container(1)], "initContainers": [sidecar(1), container(3)]}, 4),
        ({"containers": [container(1)], "initContainers": [container(3), sidecar(1)]}, 3),
    ],
)
def test_counts_as_the_scheduler_does(spec: dict[str, object], expected: int) -> None:
    assert pods.effective_requests(spec).get(NAME, 0) == expected


def test_the_api_server_writes_a_thousand_in_its_own_way() -> None:
    assert pods.effective_requests({"containers": [{"resources": {"limits": {NAME: "1k"}}}]}) == {NAME: 1000}


def test_reads_a_pod() -> None:
    obj = {
        "metadata": {"uid": "u", "namespace": "n", "name": "p"},
        "spec": {"containers": [container(2)]},
        "status": {"phase": "Running"},
    }
    pod = pods.from_json(obj)
    assert (str(pod), pod.grants, pod.terminal, pod.config_hash) == ("n/p", {NAME: 2}, False, "")


def test_a_static_pod_is_known_by_its_manifest_hash() -> None:
    notes = {"kubernetes.io/config.hash": "abc", "kubernetes.io/config.mirror": "abc"}
    assert pods.from_json({"metadata": {"uid": "u", "namespace": "n", "name": "p", "annotations": notes}}).config_hash == "abc"


def test_the_hash_alone_does_not_make_a_static_pod() -> None:
    notes = {"kubernetes.io/config.hash": "abc"}
    assert pods.from_json({"metadata": {"uid": "u", "namespace": "n", "name": "p", "annotations": notes}}).config_hash == ""


PRIVILEGED = {"securityContext": {"privileged": True}}


@pytest.mark.parametrize(
    ("spec", "reaches"),
    [
        ({"containers": [{}]}, False),
        ({"containers": [PRIVILEGED]}, True),
        ({"containers": [{}], "initContainers": [PRIVILEGED]}, True),
        ({"volumes": [{"hostPath": {"path": "/"}}]}, True),
        ({"volumes": [{"hostPath": {"path": "/opt"}}]}, True),
        ({"volumes": [{"hostPath": {"path": "/opt/cmk2"}}]}, True),
        ({"volumes": [{"hostPath": {"path": "/etc/cmk/"}}, {"hostPath": {"path": "/proc"}}]}, True),
        (
            {"volumes": [{"hostPath": {"path": "//opt/./cmk/"}}, {"hostPath": {"path": "/etc/cmk/pools"}}, {"emptyDir": {}}]},
            False,
        ),
    ],
)
def test_a_pod_reaches_the_host_by_privileges_and_by_paths_that_are_not_cmks(spec: dict[str, Any], reaches: bool) -> None:
    assert pods.reaches_host({"spec": spec}, ("/opt/cmk", "/etc/cmk")) is reaches


@pytest.mark.parametrize(("phase", "ended"), [("Pending", False), ("Running", False), ("Succeeded", True), ("Failed", True)])
def test_a_pod_has_ended_by_its_phase(phase: str, ended: bool) -> None:
    obj = {"metadata": {"uid": "u", "namespace": "n", "name": "p"}, "status": {"phase": phase}}
    assert pods.from_json(obj).terminal is ended


@pytest.mark.parametrize(
    ("amounts", "count"),
    [
        (["9E", "9E", "9E"], pods.MOST_CORES + 1),
        (["65536"], 65536),
        (["65536", "1"], pods.MOST_CORES + 1),
        (["100E"], pods.MOST_CORES + 1),
        ([10**5000], pods.MOST_CORES + 1),
        ([-(10**5000), 1], 1),
        (["1e99"], pods.MOST_CORES + 1),
        (["1e400", "1"], 1),
        (["1e" + "9" * 5000, "1"], 1),
        (["9" * 5000], 0),
        (["500m", "2"], 2),
        (["-1", "2"], 2),
        (["", "two", None, [], {}, 1.5, float("inf")], 0),
        (["12000m", "1k"], 1012),
    ],
)
def test_no_request_is_larger_than_a_node_and_none_ends_the_agent(amounts: list[object], count: int) -> None:
    spec = {"containers": [{"resources": {"limits": {NAME: amount}}} for amount in amounts]}
    assert pods.effective_requests(spec).get(NAME, 0) == count


@pytest.mark.parametrize(("most", "granted"), [(0, 0), (1, 0), (2, 2), (3, 2)])
def test_a_pod_is_granted_what_it_requests_or_nothing(most: int, granted: int) -> None:
    assert pods.Pod("u", "n", "p", {NAME: 2}).granted(NAME, most) == granted
