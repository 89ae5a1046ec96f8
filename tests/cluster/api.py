"""The cluster's API, asked without a process for every look: tests look all the time, and kubectl takes most of the machine for it."""

from __future__ import annotations

import ctypes
import http.client
import json
import os
import socket
import ssl
import threading
from pathlib import Path
from typing import Any
from urllib.parse import urlencode, urlsplit

import yaml

Json = dict[str, Any]

_CORE, _APPS, _RBAC = "/api/v1", "/apis/apps/v1", "/apis/rbac.authorization.k8s.io/v1"
_ADMISSION, _CMK = "/apis/admissionregistration.k8s.io/v1", "/apis/cmk.intel.com/v1"
# Kind, plural, group and whether it is in namespaces.
_KINDS = (
    ("Node", "nodes", _CORE, False),
    ("Namespace", "namespaces", _CORE, False),
    ("Pod", "pods", _CORE, True),
    ("ConfigMap", "configmaps", _CORE, True),
    ("Secret", "secrets", _CORE, True),
    ("Event", "events", _CORE, True),
    ("Endpoints", "endpoints", _CORE, True),
    ("EndpointSlice", "endpointslices", "/apis/discovery.k8s.io/v1", True),
    ("ServiceAccount", "serviceaccounts", _CORE, True),
    ("DaemonSet", "daemonsets", _APPS, True),
    ("Deployment", "deployments", _APPS, True),
    ("Job", "jobs", "/apis/batch/v1", True),
    ("Lease", "leases", "/apis/coordination.k8s.io/v1", True),
    ("PodDisruptionBudget", "poddisruptionbudgets", "/apis/policy/v1", True),
    ("Role", "roles", _RBAC, True),
    ("RoleBinding", "rolebindings", _RBAC, True),
    ("ClusterRole", "clusterroles", _RBAC, False),
    ("ClusterRoleBinding", "clusterrolebindings", _RBAC, False),
    ("MutatingWebhookConfiguration", "mutatingwebhookconfigurations", _ADMISSION, False),
    ("CustomResourceDefinition", "crds", "/apis/apiextensions.k8s.io/v1", False),
    ("Certificate", "certificates", "/apis/cert-manager.io/v1", True),
    ("NodeReport", "cmk-nodereports", _CMK, False),
)
_PLURALS = {"crds": "customresourcedefinitions"}
_SECONDS = 30.0
JSON = "application/json"


class ApiError(AssertionError):
    """The API server said no."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(f"{status}: {text}")
        self.status = status


class ApiServer:
    """The API server of a cluster whose files are in ``run``; a connection for each thread."""

    def __init__(self, run: Path) -> None:
        self._run = run
        self._local = threading.local()

    def get(self, *words: str) -> Json:
        """An object, or a list of one or more kinds, by the words of ``kubectl get``: kinds, name, -n, -l, --field-selector."""
        kinds, name, namespace, query = _parse(words)
        if name:
            return self.request("GET", f"{_path(kinds[0], namespace)}/{name}")
        items: list[Json] = []
        for kind in kinds:
            found = self.request("GET", f"{_path(kind, namespace)}?{urlencode(query)}")
            items += [{"kind": _find(kind)[0], **item} for item in found["items"]]
        return {"items": items}

    def find(self, *words: str) -> Json | None:
        """The same, or None when there is nothing."""
        try:
            found = self.get(*words)
        except ApiError as error:
            if error.status != http.client.NOT_FOUND:
                raise
            return None
        return found if found.get("items", True) else None

    def request(self, method: str, path: str, body: Json | None = None, kind: str = JSON, token: str = "") -> Json:
        """One call, as the administrator or with somebody's token; raises ApiError. ``kind`` is the content type."""
        return dict(json.loads(self.text(method, path, body, kind, token)))

    def text(self, method: str, path: str, body: Json | None = None, kind: str = JSON, token: str = "") -> str:
        """The same, whatever the answer is written in."""
        try:
            status, data = self._exchange(method, path, body, kind, token)
        except (OSError, http.client.HTTPException):
            self.close()  # it was idle for too long, or the server is another one now
            status, data = self._exchange(method, path, body, kind, token)
        if status >= http.client.BAD_REQUEST:
            raise ApiError(status, f"{method} {path}: {data}")
        return data

    def close(self) -> None:
        """Close this thread's connection; the next call makes another."""
        if connection := getattr(self._local, "connection", None):
            connection.close()
        self._local.connection = None

    def _exchange(self, method: str, path: str, body: Json | None, kind: str, token: str) -> tuple[int, str]:
        if getattr(self._local, "connection", None) is None:
            self._local.connection, self._local.token = self._connect()
        connection: http.client.HTTPConnection = self._local.connection
        headers = {"Authorization": f"Bearer {token or self._local.token}", "Content-Type": kind}
        connection.request(method, path, json.dumps(body) if body is not None else None, headers)
        answer = connection.getresponse()
        return answer.status, answer.read().decode()

    def _connect(self) -> tuple[http.client.HTTPConnection, str]:
        config = yaml.safe_load((self._run / "admin.kubeconfig").read_text())
        cluster, token = config["clusters"][0]["cluster"], config["users"][0]["user"]["token"]
        where = urlsplit(cluster["server"])
        assert where.hostname
        assert where.port
        context = ssl.create_default_context(cafile=cluster["certificate-authority"])
        connection = http.client.HTTPSConnection(where.hostname, where.port, timeout=_SECONDS, context=context)
        plain = _socket_in((self._run / "net.pid").read_text().strip(), (where.hostname, where.port))
        connection.sock = context.wrap_socket(plain, server_hostname=where.hostname)
        return connection, token


def _parse(words: tuple[str, ...]) -> tuple[list[str], str, str, dict[str, str]]:
    names, namespace, query, rest = [], "default", {}, iter(words)
    for word in rest:
        if word == "-n":
            namespace = next(rest)
        elif word == "-l":
            query["labelSelector"] = next(rest)
        elif word == "--field-selector":
            query["fieldSelector"] = next(rest)
        else:
            names.append(word)
    return names[0].split(","), "".join(names[1:]), namespace, query


def _find(kind: str) -> tuple[str, str, str, bool]:
    wanted = kind.lower()
    return next(entry for entry in _KINDS if wanted in {entry[0].lower(), entry[1], entry[1].removesuffix("s")})


def _path(kind: str, namespace: str) -> str:
    _, plural, group, namespaced = _find(kind)
    return f"{group}/namespaces/{namespace}/{plural}" if namespaced else f"{group}/{_PLURALS.get(plural, plural)}"


def _socket_in(pid: str, address: tuple[str, int]) -> socket.socket:
    """A connection out of the network namespace of a process: a thread goes there, and its socket stays there."""
    made: list[socket.socket | OSError] = []

    def connect() -> None:
        namespace = os.open(f"/proc/{pid}/ns/net", os.O_RDONLY)
        try:
            if ctypes.CDLL(None, use_errno=True).setns(namespace, 0):
                raise OSError(ctypes.get_errno(), f"setns to the network of process {pid}")
            made.append(socket.create_connection(address, timeout=_SECONDS))
        except OSError as error:
            made.append(error)
        finally:
            os.close(namespace)

    thread = threading.Thread(target=connect)
    thread.start()
    thread.join()
    (found,) = made
    if isinstance(found, OSError):
        raise found
    return found
