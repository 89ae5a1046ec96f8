"""Reviews as an API server sends them, for the benchmark: a hundred pods of a few kilobytes, of which twenty request cores."""

from __future__ import annotations

import json
import random
from typing import Any

Json = dict[str, Any]


def reviews(count: int = 100, asking: int = 20) -> list[bytes]:
    """The bodies, the same at each call."""
    chance = random.Random(1)  # noqa: S311  # the same pods for every server
    return [json.dumps(_review(number, number < asking, chance)).encode() for number in range(count)]


def _review(number: int, asks: bool, chance: random.Random) -> Json:
    containers = [_container(index, asks and index == 0, chance) for index in range(chance.randint(1, 4))]
    labels = {f"app.kubernetes.io/label-{index}": f"value-{chance.random()}" for index in range(chance.randint(2, 8))}
    token = {"serviceAccountToken": {"expirationSeconds": 3607, "path": "token"}}
    fields = {f"f:metadata.label-{index}": {".": {}, "f:value": {}} for index in range(40)}
    pod = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": f"pod-{number}",
            "namespace": "default",
            "labels": labels,
            "managedFields": [{"manager": "kube-controller-manager", "operation": "Update", "fieldsV1": fields}],
        },
        "spec": {
            "containers": containers,
            "volumes": [{"name": "kube-api-access", "projected": {"sources": [token], "defaultMode": 420}}],
            "serviceAccountName": "default",
            "tolerations": [{"key": f"node.kubernetes.io/{key}", "operator": "Exists"} for key in ("not-ready", "unreachable")],
        },
        "status": {},
    }
    request = {
        "uid": f"uid-{number}",
        "kind": {"group": "", "version": "v1", "kind": "Pod"},
        "operation": "CREATE",
        "object": pod,
    }
    return {"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "request": request}


def _container(index: int, asks: bool, chance: random.Random) -> Json:
    probe = {"httpGet": {"path": "/healthz", "port": 8080, "scheme": "HTTP"}, "timeoutSeconds": 1, "periodSeconds": 10}
    resources: Json = {"requests": {"memory": "64Mi"}, "limits": {"memory": "128Mi"}}
    if asks:
        resources["requests"]["cmk.intel.com/exclusive-cores"] = "1"
    return {
        "name": f"container-{index}",
        "image": f"registry.example/team/application:{chance.random()}",
        "env": [{"name": f"VARIABLE_{entry}", "value": f"value {chance.random()}"} for entry in range(chance.randint(2, 12))],
        "resources": resources,
        "volumeMounts": [
            {"name": "kube-api-access", "mountPath": "/var/run/secrets/kubernetes.io/serviceaccount", "readOnly": True}
        ],
        "livenessProbe": probe,
        "readinessProbe": probe,
        "terminationMessagePath": "/dev/termination-log",
    }
