"""Whatever an API server, or somebody in its place, sends: an answer or a clear no, and every patch makes a valid pod of a valid pod."""

from __future__ import annotations

import base64
import copy
import json
from contextlib import suppress
from typing import Any

import jsonpatch
from hypothesis import given, settings
from hypothesis import strategies as st

from cmk.webhook.review import BadReview, answer
from cmk.webhook.rules import Mutations, Rules, checked

CORES = "cmk.intel.com/exclusive-cores"
NAMES = [
    CORES,
    "cmk.intel.com/dpdk-cores",
    "cmk.intel.com/no-cores",
    "pod.alpha.kubernetes.io/opaque-int-resource-kcm",
    "cpu",
    "memory",
]
COUNTS = st.sampled_from(["0", "1", "2", "1k", 3, "1500m", "-1", "x", None])
PATHS = ["/opt", "/opt/bin", "/opt/bin/", "/opt/bin/cmk", "/opt/cmk", "/data", "/opt/bin/../x", ""]
Json = dict[str, Any]


def maybe(strategy: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.none() | strategy


def optional(**fields: st.SearchStrategy[Any]) -> st.SearchStrategy[Json]:
    return st.fixed_dictionaries({}, optional=fields)


resources = optional(
    requests=maybe(st.dictionaries(st.sampled_from(NAMES), COUNTS, max_size=3)),
    limits=maybe(st.dictionaries(st.sampled_from(NAMES), COUNTS, max_size=3)),
)
volume_names = st.sampled_from(["cmk-install-dir", "cmk-install-dir-2", "a", "b"])
volumes = st.lists(
    st.builds(
        lambda name, path: {"name": name, "hostPath": {"path": path}} if path else {"name": name, "emptyDir": {}},
        volume_names,
        st.sampled_from(["/opt/cmk", "/opt/bin", ""]),
    ),
    unique_by=lambda item: item["name"],
    max_size=3,
)
mounts = st.lists(
    st.fixed_dictionaries({"name": volume_names, "mountPath": st.sampled_from(PATHS)}),
    unique_by=lambda item: item["mountPath"],
    max_size=3,
)
env = st.lists(st.fixed_dictionaries({"name": st.sampled_from(["CMK_NUM_CORES", "A"]), "value": st.just("1")}), max_size=2)
container = st.fixed_dictionaries(
    {"name": st.text("abc", min_size=1, max_size=3)},
    optional={
        "resources": maybe(resources),
        "env": maybe(env),
        "volumeMounts": maybe(mounts),
        "restartPolicy": st.just("Always"),
    },
)
annotations = st.dictionaries(
    st.sampled_from(["cmk.intel.com/mutate", "cmk.intel.com/resources-injected", "kubernetes.io/config.mirror", "x"]),
    st.sampled_from(["true", "1", "false", ""]),
    max_size=2,
)
tolerations = st.lists(
    optional(
        key=maybe(st.sampled_from(["cmk", "", "x"])),
        operator=maybe(st.sampled_from(["Exists", "Equal", ""])),
        value=maybe(st.sampled_from(["true", ""])),
        effect=maybe(st.sampled_from(["NoSchedule", "NoExecute", ""])),
    ),
    max_size=2,
)
pods = st.fixed_dictionaries(
    {
        "spec": st.fixed_dictionaries(
            {"containers": maybe(st.lists(container, max_size=4))},
            optional={
                "initContainers": maybe(st.lists(container, max_size=3)),
                "volumes": maybe(volumes),
                "tolerations": maybe(tolerations),
                "runtimeClassName": maybe(st.sampled_from(["kata", "runc"])),
            },
        )
    },
    optional={"metadata": maybe(optional(annotations=maybe(annotations), name=st.text("ab", max_size=2)))},
)
RULES = [
    Rules(cpu_requests=cpu, pools=pools, unsupported_runtime_classes=frozenset({"kata"}), mutations=checked(mutations))
    for cpu in (True, False)
    for pools in (None, frozenset({"exclusive", "dpdk"}))
    for mutations in (
        Mutations(),
        Mutations(
            {"metadata": {"labels": {"a": "b"}}, "spec": {"volumes": [{"name": "a", "emptyDir": {}}], "serviceAccount": "x"}},
            {"volumeMounts": [{"name": "a", "mountPath": "/data"}], "env": [{"name": "A", "value": "2"}]},
        ),
    )
]
anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["spec", "containers", "metadata", "x"]), inner, max_size=3)
    ),
    max_leaves=12,
)


def body(pod: Any) -> bytes:  # noqa: ANN401
    request = {"uid": "u", "kind": {"group": "", "version": "v1", "kind": "Pod"}, "operation": "CREATE", "object": pod}
    return json.dumps({"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "request": request}).encode()


def patched(pod: Json, by: Rules) -> tuple[Json, Json]:
    response = json.loads(answer(body(pod), by)[0])["response"]
    patch = json.loads(base64.b64decode(response.get("patch", base64.b64encode(b"[]"))))
    return jsonpatch.apply_patch(copy.deepcopy(pod), patch), response


def faults(pod: Json) -> set[str]:
    """What the API server, or kubelet, would not take, of what we touch."""
    spec, found = pod["spec"], set()
    names = [item["name"] for item in spec.get("volumes") or []]
    if len(names) != len(set(names)):
        found.add("volumes of the same name")
    for item in [*(spec.get("initContainers") or []), *(spec.get("containers") or [])]:
        paths = [mount["mountPath"] for mount in item.get("volumeMounts") or []]
        if len(paths) != len(set(paths)):
            found.add("mounts at the same place")
        if {mount["name"] for mount in item.get("volumeMounts") or []} - set(names):
            found.add("mounts of no volume")
        asked = item.get("resources") or {}
        for name, count in (asked.get("requests") or {}).items():
            if name.startswith("cmk.intel.com/") and count is not None and (asked.get("limits") or {}).get(name) is None:
                found.add(f"{name} without a limit")
    for item in spec.get("tolerations") or []:
        if item.get("operator") == "Exists" and item.get("value"):
            found.add("Exists with a value")
    return found


# To make up a pod takes ten times as long as to answer for it: each meets all rules.
@settings(max_examples=1_500)
@given(pods)
def test_every_patch_applies_and_makes_a_valid_pod(pod: Json) -> None:
    for by in RULES:
        before = copy.deepcopy(pod)
        after, response = patched(pod, by)
        assert pod == before
        if not response["allowed"]:
            assert response["status"]["message"]
            assert after == before
            continue
        assert faults(after) <= faults(before)
        again, _ = patched(after, by)
        assert again == after


@settings(max_examples=2_000)
@given(anything)
def test_what_is_no_pod_gets_a_clear_no(thing: Any) -> None:  # noqa: ANN401
    data = body(thing)
    for by in RULES:
        with suppress(BadReview):
            answer(data, by)


@settings(max_examples=2_000)
@given(st.binary(max_size=200))
def test_bytes_that_are_no_review_get_a_clear_no(data: bytes) -> None:
    for by in RULES:
        with suppress(BadReview):
            answer(data, by)
