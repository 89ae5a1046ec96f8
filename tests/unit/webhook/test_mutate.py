from __future__ import annotations

from typing import Any

import pytest

from cmk.webhook.draft import Json
from cmk.webhook.mutate import mutate
from cmk.webhook.rules import Rules
from tests.unit.webhook.pods import CORES, MOUNT, TOLERATION, VOLUME, changed, container, pod

OTHER = "cmk.intel.com/exclusive-non-isolcpus-cores"
DONE = "cmk.intel.com/resources-injected"


def denial(before: Json, rules: Rules | None = None) -> str:
    decision = mutate(before, rules or Rules())
    assert decision.patch == []
    return decision.denial


def env(of: Json) -> dict[str, str]:
    return {entry["name"]: entry["value"] for entry in of.get("env") or []}


def test_a_pod_with_nothing_but_the_request() -> None:
    before = pod({"name": "app", "resources": {"requests": {CORES: 2}}})
    _, decision = changed(before)
    assert decision.patch == [
        {"op": "add", "path": "/spec/containers/0/resources/limits", "value": {CORES: 2}},
        {"op": "add", "path": "/spec/volumes", "value": [VOLUME]},
        {"op": "add", "path": "/spec/containers/0/volumeMounts", "value": [MOUNT]},
        {"op": "add", "path": "/spec/containers/0/env", "value": [{"name": "CMK_NUM_CORES", "value": "2"}]},
        {"op": "add", "path": "/spec/tolerations", "value": [TOLERATION]},
        {"op": "add", "path": "/metadata/annotations", "value": {DONE: "true"}},
    ]
    assert decision.warnings == []


def test_it_gives_no_account_no_proc_and_no_blanket_toleration() -> None:
    after, _ = changed(pod(container(cores="1")))
    assert "serviceAccountName" not in after["spec"]
    assert after["spec"]["volumes"] == [VOLUME]
    assert after["spec"]["tolerations"] == [TOLERATION]


@pytest.mark.parametrize("annotation", ["true", "True", "1"])
def test_the_annotation_asks_as_well(annotation: str) -> None:
    after, _ = changed(pod(container(), annotations={"cmk.intel.com/mutate": annotation}))
    assert after["spec"]["containers"][0]["volumeMounts"] == [MOUNT]
    assert "env" not in after["spec"]["containers"][0]
    assert after["metadata"]["annotations"][DONE] == "true"


@pytest.mark.parametrize(
    "before",
    [
        pod(container()),
        pod(container(), annotations={"cmk.intel.com/mutate": "false"}),
        pod(container(), annotations={DONE: "true"}),
        pod(container(cores="0")),
        pod(container(cores="1"), annotations={"kubernetes.io/config.mirror": "x"}),
        pod(container(resources={"requests": {"cpu": "1"}})),
        pod(container(resources={"limits": {"cmk.intel.com/other": "1"}})),
        pod(container(resources=None), annotations=None),
    ],
    ids=["nothing", "not wanted", "a forged mark", "no cores", "mirror", "cpu", "another resource", "nulls"],
)
def test_pods_that_are_left_alone(before: Json) -> None:
    assert changed(before)[1].patch == []


def test_every_container_gets_the_launcher_and_those_that_ask_their_number() -> None:
    sidecar = container("sidecar", cores="3", restartPolicy="Always")
    after, _ = changed(pod(container("a", cores="2"), container("b"), initContainers=[container("init", cores="1"), sidecar]))
    every = [*after["spec"]["initContainers"], *after["spec"]["containers"]]
    assert all(item["volumeMounts"] == [MOUNT] for item in every)
    assert [env(item).get("CMK_NUM_CORES") for item in every] == ["1", "3", "2", None]
    assert after["spec"]["volumes"] == [VOLUME]


def test_a_hundred_containers() -> None:
    before = pod(*(container(f"c{number}", cores=str(number)) for number in range(100)))
    after, decision = changed(before)
    assert [env(item).get("CMK_NUM_CORES") for item in after["spec"]["containers"][1:]] == [str(n) for n in range(1, 100)]
    assert len(decision.patch) == 2 * 100 - 1 + 3


@pytest.mark.parametrize(
    ("resources", "number", "limits"),
    [
        ({"limits": {CORES: "2"}}, "2", {CORES: "2"}),
        ({"requests": {CORES: "2"}, "limits": None}, "2", {CORES: "2"}),
        ({"requests": {CORES: "2"}, "limits": {"cpu": "1"}}, "2", {"cpu": "1", CORES: "2"}),
        ({"requests": None, "limits": {CORES: 1}}, "1", {CORES: 1}),
        ({"requests": {CORES: "1k"}, "limits": {CORES: "1k"}}, "1000", {CORES: "1k"}),
        ({"requests": {OTHER: "1", CORES: "1"}}, "1", {OTHER: "1", CORES: "1"}),
    ],
    ids=["limit alone", "request alone", "another limit", "null", "in thousands", "two pools"],
)
def test_cores_as_requests_and_limits(resources: Json, number: str, limits: Json) -> None:
    after, _ = changed(pod(container(resources=resources)))
    (app,) = after["spec"]["containers"]
    assert env(app)["CMK_NUM_CORES"] == number
    assert app["resources"]["limits"] == limits


@pytest.mark.parametrize("zero", ["0", 0, "0m"])
def test_zero_cores_are_none_and_still_need_a_limit(zero: Any) -> None:  # noqa: ANN401
    after, decision = changed(pod(container(resources={"requests": {CORES: zero}})))
    assert after["spec"]["containers"][0]["resources"]["limits"] == {CORES: zero}
    assert len(decision.patch) == 1


@pytest.mark.parametrize(
    "old", ["pod.alpha.kubernetes.io/opaque-int-resource-cmk", "pod.alpha.kubernetes.io/opaque-int-resource-kcm"]
)
@pytest.mark.parametrize("kinds", [("requests",), ("requests", "limits"), ("limits",)])
def test_opaque_integer_resources_get_todays_name(old: str, kinds: tuple[str, ...]) -> None:
    after, _ = changed(pod(container(resources={kind: {old: "2", "memory": "1Gi"} for kind in kinds})))
    (app,) = after["spec"]["containers"]
    assert app["resources"]["limits"][CORES] == "2"
    assert old not in str(app["resources"])
    assert env(app)["CMK_NUM_CORES"] == "2"


def test_todays_name_wins_over_yesterdays() -> None:
    both = {"pod.alpha.kubernetes.io/opaque-int-resource-cmk": "4", CORES: "2"}
    after, _ = changed(pod(container(resources={"requests": both, "limits": dict(both)})))
    assert after["spec"]["containers"][0]["resources"] == {"requests": {CORES: "2"}, "limits": {CORES: "2"}}


def test_the_users_number_is_kept() -> None:
    own = [{"name": "CMK_NUM_CORES", "value": "1"}]
    after, _ = changed(pod(container(cores="2", env=own)))
    assert after["spec"]["containers"][0]["env"] == own


@pytest.mark.parametrize("place", ["/opt/bin", "/opt/bin/", "/opt//bin", "/opt/bin/cmk", "/opt/bin/sub/dir"])
def test_a_container_with_something_of_its_own_there_is_left_alone(place: str) -> None:
    own = {"name": "mine", "mountPath": place}
    volume = {"name": "mine", "emptyDir": {}}
    after, _ = changed(pod(container(cores="1", volumeMounts=[own]), volumes=[volume]))
    assert after["spec"]["containers"][0]["volumeMounts"] == [own]
    assert after["spec"]["volumes"] == [volume]


@pytest.mark.parametrize("place", ["/opt", "/opt/binary", "/usr/opt/bin"])
def test_mounts_beside_it_do_not_matter(place: str) -> None:
    own = {"name": "mine", "mountPath": place}
    after, _ = changed(pod(container(cores="1", volumeMounts=[own]), volumes=[{"name": "mine", "emptyDir": {}}]))
    assert after["spec"]["containers"][0]["volumeMounts"] == [own, MOUNT]


def test_a_container_that_mounts_the_install_directory_elsewhere_has_it() -> None:
    own = {"name": "cmk", "mountPath": "/opt/cmk", "readOnly": True}
    volume = {"name": "cmk", "hostPath": {"path": "/opt/cmk", "type": "Directory"}}
    after, _ = changed(pod(container("a", cores="1", volumeMounts=[own]), container("b"), volumes=[volume]))
    first, second = after["spec"]["containers"]
    assert first["volumeMounts"] == [own]
    assert second["volumeMounts"] == [{**MOUNT, "name": "cmk"}]
    assert after["spec"]["volumes"] == [volume]


def test_a_volume_of_that_name_with_something_else_stays_what_it_is() -> None:
    theirs = [{"name": "cmk-install-dir", "emptyDir": {}}, {"name": "cmk-install-dir-2", "emptyDir": {}}]
    after, _ = changed(pod(container(cores="1"), volumes=theirs))
    assert after["spec"]["volumes"] == [*theirs, {**VOLUME, "name": "cmk-install-dir-3"}]
    assert after["spec"]["containers"][0]["volumeMounts"] == [{**MOUNT, "name": "cmk-install-dir-3"}]


def test_an_injection_that_was_cut_short_is_completed() -> None:
    before = pod(container("a", cores="1", volumeMounts=[MOUNT]), container("b"), volumes=[VOLUME], annotations={DONE: "true"})
    _, decision = changed(before)
    assert [operation["path"] for operation in decision.patch] == [
        "/spec/containers/0/env",
        "/spec/containers/1/volumeMounts",
        "/spec/tolerations",
    ]


@pytest.mark.parametrize(
    "toleration",
    [
        {"operator": "Exists"},
        {"key": "cmk", "operator": "Exists"},
        {"key": "cmk", "operator": "Exists", "effect": "NoSchedule"},
        {"key": "cmk", "value": "true"},
        {"key": "cmk", "operator": None, "value": "true", "effect": ""},
    ],
)
def test_a_toleration_that_does_is_enough(toleration: Json) -> None:
    after, _ = changed(pod(container(cores="1"), tolerations=[toleration]))
    assert after["spec"]["tolerations"] == [toleration]


@pytest.mark.parametrize(
    "toleration",
    [
        {"key": "cmk", "value": "false"},
        {"key": "other", "operator": "Exists"},
        {"key": "cmk", "operator": "Exists", "effect": "NoExecute"},
        {"key": None, "value": "true"},
    ],
)
def test_one_that_does_not_is_not(toleration: Json) -> None:
    after, _ = changed(pod(container(cores="1"), tolerations=[toleration]))
    assert after["spec"]["tolerations"] == [toleration, TOLERATION]


def test_fields_that_are_null() -> None:
    nulls = {"env": None, "volumeMounts": None}
    after, _ = changed(
        pod(
            container(cores="1", **nulls),
            initContainers=None,
            volumes=None,
            tolerations=None,
            runtimeClassName=None,
            annotations={},
        )
    )
    assert after["spec"]["containers"][0]["volumeMounts"] == [MOUNT]


@pytest.mark.parametrize("cores", ["1500m", "0.5", "-1", 1.5, "many"])
def test_parts_of_a_core_are_refused(cores: Any) -> None:  # noqa: ANN401
    assert denial(pod(container(cores=cores))).startswith(f"container app asks for {CORES}: ")


@pytest.mark.parametrize("cores", ["65537", "9E", "1e99"])
def test_more_cores_than_any_node_has_are_refused(cores: str) -> None:
    assert denial(pod(container(cores=cores))) == (
        f"container app asks for {CORES}: {cores} is more than 65536, and than any node has; lower it"
    )
    assert changed(pod(container(cores="65536")))[1].denial == ""


def test_an_unknown_pool_is_refused_with_those_there_are() -> None:
    rules = Rules(pools=frozenset({"exclusive", "dpdk"}))
    before = pod(container(resources={"limits": {"cmk.intel.com/dkdp-cores": "1"}}))
    assert denial(before, rules) == (
        "container app asks for cmk.intel.com/dkdp-cores: there is no exclusive pool dkdp; there are: dpdk, exclusive. "
        "A shared pool needs no request"
    )


def test_any_pool_will_do_where_none_is_known() -> None:
    assert changed(pod(container(resources={"limits": {"cmk.intel.com/dkdp-cores": "1"}})))[1].denial == ""


@pytest.mark.parametrize("asks", [{"cores": "1"}, {}])
def test_a_runtime_with_a_kernel_of_its_own_is_refused(asks: Json) -> None:
    rules = Rules(unsupported_runtime_classes=frozenset({"kata"}))
    annotations = {} if asks else {"cmk.intel.com/mutate": "true"}
    text = denial(pod(container(**asks), runtimeClassName="kata", annotations=annotations), rules)
    assert text.startswith("runtimeClassName kata: its containers run on a kernel of their own")


def test_that_runtime_may_run_what_does_not_ask() -> None:
    assert (
        changed(pod(container(), runtimeClassName="kata"), Rules(unsupported_runtime_classes=frozenset({"kata"})))[1].patch == []
    )


def test_a_wish_for_moves_that_nobody_understands_is_refused() -> None:
    text = denial(pod(container(cores="1"), annotations={"cmk.intel.com/on-move": "stay"}))
    assert text == "annotation cmk.intel.com/on-move: on-move 'stay' is none of follow, pinned, notify, notify:SIGNAL"
    assert changed(pod(container(cores="1"), annotations={"cmk.intel.com/on-move": "notify:SIGHUP"}))[1].denial == ""


def test_the_scheduler_is_told_of_the_cores_where_wanted() -> None:
    after, decision = changed(pod(container(cores="2"), container("b", cores="0"), container("c")), Rules(cpu_requests=True))
    assert [(item.get("resources") or {}).get("requests", {}).get("cpu") for item in after["spec"]["containers"]] == [
        "2",
        None,
        None,
    ]
    assert decision.warnings == []


def test_cores_of_two_pools_are_added_up() -> None:
    after, _ = changed(pod(container(resources={"limits": {CORES: "2", OTHER: "1"}})), Rules(cpu_requests=True))
    assert after["spec"]["containers"][0]["resources"]["requests"]["cpu"] == "3"


@pytest.mark.parametrize("kind", ["requests", "limits"])
def test_cpu_that_somebody_asked_for_is_kept_and_warned_of(kind: str) -> None:
    asked = {"requests": {CORES: "2"}, "limits": {CORES: "2"}}
    asked[kind]["cpu"] = "500m"
    after, decision = changed(pod(container(resources=asked)), Rules(cpu_requests=True))
    assert after["spec"]["containers"][0]["resources"] == asked
    (warning,) = decision.warnings
    assert warning.endswith("leave requests and limits of cpu out: the request for cores takes their place")


def test_a_container_without_cores_may_ask_for_cpu() -> None:
    assert changed(pod(container("a", cores="1"), container("b", resources={"limits": {"cpu": "1"}})))[1].warnings == []


def test_as_much_cpu_as_cores_is_no_conflict() -> None:
    asked = {"requests": {CORES: "2", "cpu": "2000m"}, "limits": {CORES: "2"}}
    assert changed(pod(container(resources=asked)))[1].warnings == []


def test_of_two_pools_the_first_is_counted_as_cmk_did_and_told() -> None:
    after, decision = changed(pod(container(resources={"limits": {OTHER: "1", CORES: "2"}})))
    assert env(after["spec"]["containers"][0])["CMK_NUM_CORES"] == "2"
    (warning,) = decision.warnings
    assert warning == (
        "container app asks for cores of several pools: CMK_NUM_CORES is that of cmk.intel.com/exclusive-cores; "
        "set it at each cmk isolate"
    )


def test_warnings_do_not_flood() -> None:
    asked = {"limits": {CORES: "1", "cpu": "1"}}
    decision = changed(pod(*(container(f"c{number}", resources=asked) for number in range(50))))[1]
    assert len(decision.warnings) == 9
    assert decision.warnings[-1] == "and 42 more warnings of this kind"
