"""Requests to the API server, with the pod's own credentials or those of a kubeconfig.

Only the kubernetes client's configuration, credentials and transport are used: its generated models would cost 60 MB and most of a second
per agent, which reads four kinds of objects.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from time import monotonic
from typing import Any
from urllib.parse import urlencode

import msgspec
import urllib3
from kubernetes.client.configuration import Configuration
from kubernetes.client.exceptions import ApiException
from kubernetes.client.rest import RESTClientObject
from kubernetes.config.config_exception import ConfigException
from kubernetes.config.incluster_config import load_incluster_config

from cmk import __version__
from cmk.model.errors import CmkError

Json = dict[str, Any]
Body = Json | list[Json] | None
CONNECT_SECONDS = 5.0
WATCH_GRACE_SECONDS = 30.0
READ_SECONDS = 10.0
# A server that sends a byte now and then would hold a caller for ever: READ_SECONDS is the longest silence, this is the end of it.
ANSWER_SECONDS = 60.0
# An object is 1.5 MiB at most where etcd has its defaults. An agent has less memory than a longer answer takes once it is read.
MOST_ANSWER_BYTES = 64 << 20
MOST_EVENT_BYTES = 16 << 20
# One object of 1.5 MiB fits, even if escapes make it six times as long in JSON, and so do all pods of an ordinary node.
MOST_PAGE_BYTES = 16 << 20
_CHUNK_BYTES = 65536
_MOST_MESSAGE = 1000

NOT_FOUND, CONFLICT, GONE = 404, 409, 410
JSON = "application/json"
TABLE = f"{JSON};as=Table;v=v1;g=meta.k8s.io"
METADATA = f"{JSON};as=PartialObjectMetadataList;v=v1;g=meta.k8s.io"
MERGE_PATCH = "application/merge-patch+json"
STRATEGIC_PATCH = "application/strategic-merge-patch+json"
JSON_PATCH = "application/json-patch+json"
APPLY = "application/apply-patch+yaml"


class ApiError(CmkError):
    """The API server refused a request with the HTTP ``status``, or did not answer (0). The text names the request."""

    def __init__(self, text: str, status: int = 0) -> None:
        super().__init__(text)
        self.status = status


class TooLongError(ApiError):
    """An answer is longer than its caller has the memory for."""


def in_cluster() -> Api:
    """A client for the cluster that this pod runs in; raises ApiError when there are no credentials."""
    configuration = Configuration()
    try:
        load_incluster_config(configuration)
    except ConfigException as error:
        raise ApiError(f"not in a pod with a service account: {error}") from error
    return Api(configuration)


def connect() -> Api:
    """A client for the cluster that this pod runs in, outside a pod for that of the kubeconfig; raises ApiError."""
    if "KUBERNETES_SERVICE_HOST" in os.environ:
        return in_cluster()
    try:
        from kubernetes.config.kube_config import load_kube_config  # noqa: PLC0415  # the image is without it: it would need 20 MB
    except ImportError as error:
        raise ApiError(
            "this image cannot read a kubeconfig: install cmk with pip where kubectl is, or use --against FILE"
        ) from error
    configuration = Configuration()
    try:
        load_kube_config(client_configuration=configuration)
    except (ConfigException, OSError) as error:
        raise ApiError(f"cannot use the kubeconfig: {error}; KUBECONFIG names the file") from error
    return Api(configuration)


class Api:
    """Raw JSON requests; thread-safe. Every method raises ApiError."""

    def __init__(self, configuration: Configuration) -> None:
        # Callers retry at their own pace. TCP keepalive detects under a watch that the server is gone without having closed the connection.
        configuration.retries = False
        configuration.keep_alive = True
        configuration.connection_pool_maxsize = 8
        # Python 3.13 refuses CA certificates without the key usage extension, as older clusters have them.
        configuration.disable_strict_ssl_verification = True
        self._configuration = configuration
        self._ca = _stamp(configuration.ssl_ca_cert)
        self._rest = RESTClientObject(configuration)

    def get(self, path: str, **params: str) -> Json:
        """GET an object or a list."""
        return self._json("GET", path, params)

    def find(self, path: str) -> Json | None:
        """GET an object, or None when there is none."""
        try:
            return self.get(path)
        except ApiError as error:
            if error.status != NOT_FOUND:
                raise
            return None

    def metadata(self, path: str, **params: str) -> Json:
        """GET a list of which each object has its metadata only."""
        return self._json("GET", path, params, accept=METADATA)

    def table(self, path: str, **params: str) -> list[Json]:
        """GET a list as the table that kubectl prints with ``-o wide``: each row by the names of its columns."""
        found = self._json("GET", path, {**params, "includeObject": "None"}, accept=TABLE)
        names = [column["name"] for column in found["columnDefinitions"]]
        return [dict(zip(names, row["cells"], strict=True)) for row in found.get("rows") or []]

    def page(self, path: str, keep: Callable[[Any], Any], **params: str) -> Json:
        """GET a list or a part of it. Of each item there is what ``keep`` makes of it; no two items are in memory as they came.

        An item may take fifty times its JSON: many small objects do. Raises TooLongError above MOST_PAGE_BYTES.
        """
        return self._json("GET", path, params, most=MOST_PAGE_BYTES, decode=lambda data: _page(data, keep))

    def create(self, path: str, body: Json) -> Json:
        """POST a new object."""
        return self._json("POST", path, {}, body)

    def replace(self, path: str, body: Json) -> Json:
        """PUT an object; if it has a resourceVersion and the object has changed since, the server refuses (409)."""
        return self._json("PUT", path, {}, body)

    def patch(self, path: str, body: Json, kind: str) -> Json:
        """PATCH with one of the content types above."""
        return self._json("PATCH", path, {}, body, kind)

    def json_patch(self, path: str, operations: list[Json]) -> Json:
        """PATCH with a JSON patch (RFC 6902)."""
        return self._json("PATCH", path, {}, operations, JSON_PATCH)

    def apply(self, path: str, body: Json, manager: str) -> Json:
        """Server-side apply in the name of a field manager; creates the object when it is missing."""
        return self._json("PATCH", path, {"fieldManager": manager}, body, APPLY)

    def delete(self, path: str) -> None:
        """DELETE an object, unless it is gone already."""
        try:
            self._json("DELETE", path, {})
        except ApiError as error:
            if error.status != NOT_FOUND:
                raise

    def watch(self, path: str, seconds: int, **params: str) -> Iterator[Json]:
        """Events of a watch as they come, until the server ends it (after ``seconds`` at the latest)."""
        query = {**params, "watch": "true", "allowWatchBookmarks": "true", "timeoutSeconds": str(seconds)}
        response = self._request("GET", path, query, None, JSON, read_seconds=seconds + WATCH_GRACE_SECONDS)
        try:
            yield from _lines(response)
        except (urllib3.exceptions.HTTPError, OSError, _UnusableError) as error:
            raise ApiError(f"the watch of {path} broke off: {error}") from error
        finally:
            response.close()

    def _json(
        self,
        method: str,
        path: str,
        params: Mapping[str, str],
        body: Body = None,
        kind: str = JSON,
        most: int | None = None,
        decode: Callable[[bytearray], Json] | None = None,
        accept: str = JSON,
    ) -> Json:
        response = self._request(method, path, params, body, kind, accept=accept)
        try:
            return (decode or _object)(_read(response, most or MOST_ANSWER_BYTES))
        except (urllib3.exceptions.HTTPError, OSError, _UnusableError) as error:
            response.close()
            failure = TooLongError if isinstance(error, _EndlessError) else ApiError
            raise failure(f"{method} {path}: unreadable answer: {error}") from error
        finally:
            response.release_conn()

    def _request(
        self,
        method: str,
        path: str,
        params: Mapping[str, str],
        body: Body,
        kind: str,
        read_seconds: float = READ_SECONDS,
        accept: str = JSON,
    ) -> urllib3.HTTPResponse:
        url = f"{self._configuration.host}{path}" + (f"?{urlencode(params)}" if params else "")
        headers = {"Accept": accept, "Content-Type": kind, "User-Agent": f"cmk/{__version__}"}
        try:
            if token := self._configuration.get_api_key_with_prefix("BearerToken"):  # reads the file again once a minute
                headers["Authorization"] = token
            answer = self._transport().request(method, url, headers, body, _request_timeout=(CONNECT_SECONDS, read_seconds))
        except (urllib3.exceptions.HTTPError, ApiException, ConfigException, OSError) as error:
            text = " ".join(str(error).split())  # that of an ApiException has several lines
            raise ApiError(f"{method} {path}: cannot reach the API server: {text}") from error
        response: urllib3.HTTPResponse = answer.response
        if response.status >= 400:
            raise ApiError(f"{method} {path}: {response.status} {_message(response)}", response.status)
        return response

    def _transport(self) -> RESTClientObject:
        """A transport that trusts the CA certificates that the file has now: clusters replace theirs, and kubelet the file."""
        stamp = _stamp(self._configuration.ssl_ca_cert)
        if stamp is not None and stamp != self._ca:
            self._rest, self._ca = RESTClientObject(self._configuration), stamp
        return self._rest


class _UnusableError(CmkError):
    """What has come is no JSON object, or longer than it can be."""


class _EndlessError(_UnusableError):
    """It is longer than it may be."""


def _stamp(path: str | None) -> tuple[int, int] | None:
    try:
        found = Path(path).stat() if path else None
    except OSError:
        return None
    return (found.st_ino, found.st_mtime_ns) if found else None


def _object(data: bytes | bytearray) -> Json:
    try:
        value = msgspec.json.decode(data)
    except (msgspec.DecodeError, ValueError, RecursionError) as error:
        raise _UnusableError(str(error)) from error
    if not isinstance(value, dict):
        raise _UnusableError("it is no JSON object")
    return value


def _page(data: bytearray, keep: Callable[[Any], Any]) -> Json:
    try:
        parts = msgspec.json.decode(data, type=dict[str, msgspec.Raw])
        raw = parts.pop("items", None)
        page = {key: msgspec.json.decode(part) for key, part in parts.items()}
        if raw is not None:
            items = msgspec.json.decode(raw, type=list[msgspec.Raw] | None)
            page["items"] = [keep(msgspec.json.decode(item)) for item in items or []]
    except (msgspec.DecodeError, ValueError, RecursionError) as error:
        raise _UnusableError(str(error)) from error
    return page


def _read(response: urllib3.HTTPResponse, most: int) -> bytearray:
    data, deadline = bytearray(), monotonic() + ANSWER_SECONDS
    while chunk := response.read1(_CHUNK_BYTES, decode_content=True):
        data += chunk
        if len(data) > most:
            raise _EndlessError(f"it is longer than {most >> 20} MiB")
        if monotonic() > deadline:
            raise _UnusableError(f"it has not ended after {ANSWER_SECONDS:.0f} s")
    return data


def _message(response: urllib3.HTTPResponse) -> str:
    try:
        data = _read(response, MOST_ANSWER_BYTES)
    except (urllib3.exceptions.HTTPError, OSError, _UnusableError) as error:
        response.close()
        return f"with an unreadable answer: {error}"
    finally:
        response.release_conn()
    try:
        text = str(_object(data)["message"])
    except (KeyError, _UnusableError):
        return data.decode(errors="replace")[:200]
    return text[:_MOST_MESSAGE]


def _lines(response: urllib3.HTTPResponse) -> Iterator[Json]:
    pending = bytearray()
    for chunk in response.stream(_CHUNK_BYTES, decode_content=True):
        pending += chunk
        if b"\n" in chunk:
            *whole, pending = pending.split(b"\n")
            for line in whole:
                if line.strip():
                    yield _object(bytes(line))
        if len(pending) > MOST_EVENT_BYTES:
            raise _UnusableError(f"an event is longer than {MOST_EVENT_BYTES >> 20} MiB")
