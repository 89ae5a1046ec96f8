"""Mutations of an operator's own: what is refused at load, and what they make of a pod."""

from __future__ import annotations

import msgspec
import pytest
import yaml

from cmk.webhook.draft import Json
from cmk.webhook.rules import Mutations, Rules, RulesError, checked, hazards
from tests.unit.webhook.pods import MOUNT, changed, container, pod
from tests.unit.webhook.seed import MUTATIONS


def rules(per_pod: Json | None = None, per_container: Json | None = None) -> Rules:
    return Rules(mutations=checked(Mutations(per_pod or {}, per_container or {})))


def seed() -> Rules:
    return Rules(mutations=checked(msgspec.convert(yaml.safe_load(MUTATIONS)["mutations"], Mutations)))


def test_those_of_intel_cmk_do_what_they_say() -> None:
    after, _ = changed(
        pod(container("a", cores="1"), container("b"), serviceAccountName="default", serviceAccount="default"), seed()
    )
    assert after["spec"]["serviceAccountName"] == "cmk-serviceaccount"
    assert [volume["name"] for volume in after["spec"]["volumes"]] == ["cmk-host-proc", "cmk-install-dir"]
    assert after["spec"]["tolerations"] == [{"operator": "Exists"}]
    for item in after["spec"]["containers"]:
        assert [mount["mountPath"] for mount in item["volumeMounts"]] == ["/host/proc", "/opt/bin"]
        assert {"name": "CMK_PROC_FS", "value": "/host/proc"} in item["env"]


def test_what_those_give_away_is_told() -> None:
    assert [line.split(" ")[0] for line in hazards(seed().mutations)] == [
        "perPod.spec.serviceAccountName",
        "perPod.spec.tolerations:",
        "perPod.spec.volumes:",
    ]
    assert hazards(Mutations()) == []


def test_only_pods_that_ask_get_them() -> None:
    assert changed(pod(container()), rules({"metadata": {"labels": {"a": "b"}}}))[1].patch == []


def test_their_values_win_and_the_rest_stays() -> None:
    theirs = rules({"metadata": {"labels": {"team": "x"}}, "spec": {"securityContext": {"runAsUser": 1}, "hostname": "h"}})
    before = pod(container(cores="1"), securityContext={"runAsUser": 2, "fsGroup": 3}, hostname="g")
    after, _ = changed(before, theirs)
    assert after["metadata"]["labels"] == {"team": "x"}
    assert after["spec"]["securityContext"] == {"runAsUser": 1, "fsGroup": 3}
    assert after["spec"]["hostname"] == "h"


def test_items_of_the_same_name_are_replaced_whole() -> None:
    theirs = rules({"spec": {"volumes": [{"name": "v", "emptyDir": {}}]}}, {"env": [{"name": "A", "value": "1"}]})
    own = [{"name": "A", "valueFrom": {"fieldRef": {"fieldPath": "spec.nodeName"}}}]
    after, _ = changed(pod(container(cores="1", env=own), volumes=[{"name": "v", "hostPath": {"path": "/x"}}]), theirs)
    assert after["spec"]["volumes"][0] == {"name": "v", "emptyDir": {}}
    assert after["spec"]["containers"][0]["env"][0] == {"name": "A", "value": "1"}


def test_a_container_is_merged_and_a_new_one_gets_what_the_others_get() -> None:
    theirs = rules({"spec": {"containers": [{"name": "app", "tty": True}, {"name": "more", "image": "m"}]}}, {"stdin": True})
    after, _ = changed(pod(container(cores="1")), theirs)
    app, more = after["spec"]["containers"]
    assert (app["image"], app["tty"], app["stdin"]) == ("i", True, True)
    assert (more["image"], more["stdin"], more["volumeMounts"]) == ("m", True, [MOUNT])


def test_lists_without_names_get_what_they_lack() -> None:
    theirs = rules({"spec": {"tolerations": [{"key": "a", "operator": "Exists"}]}})
    one = {"key": "a", "operator": "Exists"}
    after, _ = changed(pod(container(cores="1"), tolerations=[one]), theirs)
    assert after["spec"]["tolerations"][0] == one
    assert len(after["spec"]["tolerations"]) == 2


@pytest.mark.parametrize(
    ("per_pod", "per_container", "line"),
    [
        ({"status": {}}, {}, "perPod.status is not known: perPod has metadata and spec"),
        ({"metadata": {"name": "x"}}, {}, "perPod.metadata.name: a webhook sets annotations and labels only"),
        ({"metadata": {"labels": {"a": 1}}}, {}, "perPod.metadata.labels.a: 1 is not a string: quote it"),
        ({"metadata": {"annotations": ["a"]}}, {}, r"perPod.metadata.annotations: expected a map, got \['a'\]"),
        ({"spec": []}, {}, r"perPod.spec: expected a map, got \[\]"),
        ({"spec": {"volumes": {}}}, {}, "perPod.spec.volumes: expected a list"),
        ({"spec": {"volumes": [{}]}}, {}, r"perPod.spec.volumes\[0\].name is missing"),
        ({"spec": {"tolerations": ["x"]}}, {}, r"perPod.spec.tolerations\[0\]: expected a map, got 'x'"),
        ({}, {"name": "x"}, "perContainer.name would be the same in every container"),
        ({}, {"env": [{"value": "1"}]}, r"perContainer.env\[0\].name is missing"),
        ({}, {"env": [{"name": "A", "value": 1}]}, r"perContainer.env\[0\].value: 1 is not a string: quote it"),
        ({}, {"volumeMounts": [{"name": "x"}]}, r"perContainer.volumeMounts\[0\].mountPath is missing"),
    ],
)
def test_what_no_pod_could_take_is_refused_with_its_place(per_pod: Json, per_container: Json, line: str) -> None:
    with pytest.raises(RulesError, match=line):
        rules(per_pod, per_container)
