"""The review of a pod: AdmissionReview in, AdmissionReview out. Pure: bytes to bytes."""

from __future__ import annotations

import base64
from typing import Any

import msgspec

from cmk.model.errors import CmkError
from cmk.webhook.draft import Json
from cmk.webhook.mutate import Decision, mutate
from cmk.webhook.rules import Rules

# v1beta1 has the same fields; API servers before 1.16 speak it.
VERSIONS = ("admission.k8s.io/v1", "admission.k8s.io/v1beta1")
# Clients show the message of a denial as: admission webhook "…" denied the request: MESSAGE
_UNPROCESSABLE = 422
MAX_ECHO = 80
_Quantities = dict[str, str | int | float | None] | None


class BadReview(CmkError):
    """The body is not a review of a pod; the text says what is wrong with it."""


class _Resources(msgspec.Struct):
    requests: _Quantities = None
    limits: _Quantities = None


class _Mount(msgspec.Struct):
    name: str = ""
    mountPath: str = ""  # as the API spells it


class _Named(msgspec.Struct):
    name: str = ""


class _Container(msgspec.Struct):
    name: str = ""
    env: list[_Named] | None = None
    volumeMounts: list[_Mount] | None = None
    resources: _Resources | None = None


class _HostPath(msgspec.Struct):
    path: str | None = None


class _Volume(msgspec.Struct):
    name: str = ""
    hostPath: _HostPath | None = None


class _Toleration(msgspec.Struct):
    key: str | None = None
    operator: str | None = None
    value: str | None = None
    effect: str | None = None


class _Spec(msgspec.Struct):
    containers: list[_Container] | None = None
    initContainers: list[_Container] | None = None
    volumes: list[_Volume] | None = None
    tolerations: list[_Toleration] | None = None
    runtimeClassName: str | None = None


class _Metadata(msgspec.Struct):
    annotations: dict[str, str] | None = None


class PodShape(msgspec.Struct):
    """The parts of a v1 Pod that ``mutate`` reads, and their types: decoding checks them."""

    spec: _Spec
    metadata: _Metadata | None = None


class Kind(msgspec.Struct):
    """A kind of objects."""

    kind: str
    group: str = ""
    version: str = ""


class AdmissionRequest(msgspec.Struct):
    """What the API server asks; ``object`` is looked at once it is known to be a pod."""

    uid: str
    kind: Kind
    operation: str = "CREATE"
    subResource: str = ""
    object: msgspec.Raw = msgspec.Raw(b"null")


class AdmissionReview(msgspec.Struct):
    """An AdmissionReview with its request."""

    apiVersion: str
    kind: str
    request: AdmissionRequest


_REVIEW = msgspec.json.Decoder(AdmissionReview)
_POD = msgspec.json.Decoder(PodShape)
_ANYTHING = msgspec.json.Decoder()


def answer(body: bytes, rules: Rules) -> tuple[bytes, Decision]:
    """The response to a review, and the decision in it; raises BadReview."""
    try:
        review = _REVIEW.decode(body)
        request = review.request
        _expect("apiVersion", review.apiVersion, VERSIONS)
        _expect("kind", review.kind, ("AdmissionReview",))
        _expect("request.kind", f"{request.kind.group}/{request.kind.kind}", ("/Pod",))
        _expect("request.kind.version", request.kind.version, ("v1",))
        if request.operation != "CREATE" or request.subResource:
            decision = Decision()  # containers of an existing pod cannot get a mount
        else:
            _POD.decode(request.object)
            decision = mutate(_ANYTHING.decode(request.object), rules)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise BadReview(str(error)) from error
    except RecursionError as error:
        raise BadReview("nested too deeply") from error
    return _encode(review, decision), decision


def _expect(what: str, value: str, wanted: tuple[str, ...]) -> None:
    if value not in wanted:
        raise BadReview(f"{what} is {value[:MAX_ECHO]!r}, expected {' or '.join(wanted)}")


def _encode(review: AdmissionReview, decision: Decision) -> bytes:
    response: dict[str, Any] = {"uid": review.request.uid, "allowed": not decision.denial}
    if decision.denial:
        response["status"] = {"code": _UNPROCESSABLE, "reason": "Invalid", "message": decision.denial}
    if decision.patch:
        response["patchType"] = "JSONPatch"
        response["patch"] = base64.b64encode(msgspec.json.encode(decision.patch)).decode()
    if decision.warnings:
        response["warnings"] = decision.warnings
    full: Json = {"apiVersion": review.apiVersion, "kind": "AdmissionReview", "response": response}
    return msgspec.json.encode(full)
