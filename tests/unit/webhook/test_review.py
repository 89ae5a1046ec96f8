from __future__ import annotations

import base64
import json
from typing import Any

import jsonpatch
import pytest

from cmk.webhook.draft import Json
from cmk.webhook.review import MAX_ECHO, BadReview, answer
from cmk.webhook.rules import Rules
from tests.unit.webhook.pods import container, pod

KIND = {"group": "", "version": "v1", "kind": "Pod"}


def review(of: Any = None, version: str = "admission.k8s.io/v1", **request: Any) -> Json:  # noqa: ANN401
    of = pod(container(cores="1")) if of is None else of
    fields = {"uid": "u", "kind": KIND, "operation": "CREATE", "object": of, **request}
    return {"apiVersion": version, "kind": "AdmissionReview", "request": fields}


def answered(body: Json, rules: Rules | None = None) -> Json:
    return dict(json.loads(answer(json.dumps(body).encode(), rules or Rules())[0]))


@pytest.mark.parametrize("version", ["admission.k8s.io/v1", "admission.k8s.io/v1beta1"])
def test_a_patch_says_what_it_is_and_the_version_is_echoed(version: str) -> None:
    found = answered(review(version=version))
    assert (found["apiVersion"], found["kind"]) == (version, "AdmissionReview")
    response = found["response"]
    assert (response["uid"], response["allowed"], response["patchType"]) == ("u", True, "JSONPatch")
    patch = json.loads(base64.b64decode(response["patch"]))
    assert jsonpatch.apply_patch(pod(container(cores="1")), patch)["spec"]["containers"][0]["volumeMounts"]


def test_nothing_to_do_is_an_answer_without_a_patch() -> None:
    assert answered(review(pod(container())))["response"] == {"uid": "u", "allowed": True}


def test_a_refusal_has_a_message() -> None:
    response = answered(review(pod(container(cores="1500m"))))["response"]
    assert response["allowed"] is False
    assert (
        response["status"]["message"]
        == "container app asks for cmk.intel.com/exclusive-cores: 1500m is not a whole number; a core has one owner"
    )
    assert "patch" not in response


def test_warnings_are_passed_on() -> None:
    asked = {"limits": {"cmk.intel.com/exclusive-cores": "1", "cpu": "1"}}
    assert len(answered(review(pod(container(resources=asked))))["response"]["warnings"]) == 1


@pytest.mark.parametrize(
    "request_", [{"operation": "UPDATE"}, {"subResource": "ephemeralcontainers"}, {"operation": "DELETE", "object": None}]
)
def test_a_pod_that_is_there_is_left_alone(request_: Json) -> None:
    assert answered(review(**request_))["response"] == {"uid": "u", "allowed": True}


@pytest.mark.parametrize(
    ("body", "why"),
    [
        (b"", "truncated"),
        (b"no json", "malformed"),
        (b"[]", "Expected `object`, got `array`"),
        (b"{}", "missing required field `apiVersion`"),
        (b"\xff\xfe", "malformed|invalid"),
        (b"[" * 200_000, "nested too deeply|Expected"),
        (b'{"apiVersion": ' + b"[" * 200_000, "nested too deeply|Expected"),
        (
            json.dumps(review({"spec": {"a": 1}})).replace('{"a": 1}', "[" * 200_000).encode(),
            "nested too deeply|Expected|malformed",
        ),
        (
            json.dumps(review(version="admission.k8s.io/v2")).encode(),
            "apiVersion is 'admission.k8s.io/v2', expected admission.k8s.io/v1 or",
        ),
        (json.dumps({**review(), "kind": "Pod"}).encode(), "kind is 'Pod', expected AdmissionReview"),
        (json.dumps(review(kind={**KIND, "kind": "Node"})).encode(), "request.kind is '/Node', expected /Pod"),
        (json.dumps(review(kind={**KIND, "group": "apps"})).encode(), "request.kind is 'apps/Pod'"),
        (json.dumps(review(kind={**KIND, "version": "v2"})).encode(), "request.kind.version is 'v2'"),
        (
            json.dumps({"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview"}).encode(),
            "missing required field `request`",
        ),
        (json.dumps(review({"spec": None})).encode(), r"Expected `object`, got `null` - at `\$.spec`"),
        (json.dumps(review([])).encode(), "Expected `object`, got `array`"),
        (json.dumps(review({"spec": {"containers": [None]}})).encode(), r"at `\$.spec.containers\[0\]`"),
        (json.dumps(review({"spec": {"containers": "x"}})).encode(), r"at `\$.spec.containers`"),
        (
            json.dumps(review({"spec": {}, "metadata": {"annotations": {"a": 1}}})).encode(),
            r"at `\$.metadata.annotations\[...\]`",
        ),
    ],
)
def test_what_is_no_review_of_a_pod(body: bytes, why: str) -> None:
    with pytest.raises(BadReview, match=why):
        answer(body, Rules())


def test_a_strange_word_is_not_echoed_at_length() -> None:
    with pytest.raises(BadReview) as caught:
        answer(json.dumps(review(version="x" * 10_000)).encode(), Rules())
    assert len(str(caught.value)) < MAX_ECHO + 100
