"""A webhook on loopback, in a thread of the test, and a client that trusts it."""

from __future__ import annotations

import http.client
import json
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from cmk.certificates import pki
from cmk.certificates.pki import Issued
from cmk.webhook.process import WebhookProcess
from tests.unit.webhook.pods import container, pod

NAME = "cmk-webhook.cmk.svc"
KIND = {"group": "", "version": "v1", "kind": "Pod"}
REVIEW = json.dumps(
    {
        "apiVersion": "admission.k8s.io/v1",
        "kind": "AdmissionReview",
        "request": {"uid": "u", "kind": KIND, "operation": "CREATE", "object": pod(container(cores="1"))},
    }
).encode()


def issue(before: Issued | None = None) -> Issued:
    """A certificate that is good for a day."""
    return pki.issue([NAME], datetime.now(UTC), timedelta(days=1), before.ca if before else b"")


def write(directory: Path, issued: Issued) -> None:
    """As kubelet writes a Secret: all files change at once, by a link."""
    place = directory / f"..{len(list(directory.iterdir()))}"
    place.mkdir()
    for name, data in (("tls.crt", issued.cert), ("tls.key", issued.key), ("ca.crt", issued.ca)):
        (place / name).write_bytes(data)
        if not (directory / name).is_symlink():
            (directory / name).symlink_to(f"..data/{name}")
    link = directory / "..tmp"
    link.symlink_to(place.name)
    link.rename(directory / "..data")


def configure(directory: Path, *, mutations: str = "mutations: {}") -> Path:
    """``server.yaml`` that names the files of ``write`` in ``directory``/secret."""
    (directory / "mutations.yaml").write_text(mutations)
    files = {
        "cert": f"{directory}/secret/tls.crt",
        "key": f"{directory}/secret/tls.key",
        "mutations": f"{directory}/mutations.yaml",
    }
    path = directory / "server.yaml"
    path.write_text(json.dumps({"server": {"binding-address": "127.0.0.1", "port": 0, **files}}))
    return path


def write_client(directory: Path, name: str) -> None:
    """A CA and a client's certificate of it: NAME.ca, NAME.crt, NAME.key."""
    now, pem = datetime.now(UTC), serialization.Encoding.PEM
    keys = {part: ec.generate_private_key(ec.SECP256R1()) for part in ("ca", "crt")}
    ca = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    for part, usage in (("ca", None), ("crt", x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH]))):
        subject = ca if part == "ca" else x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "client")])
        builder = x509.CertificateBuilder(
            ca, subject, keys[part].public_key(), x509.random_serial_number(), now, now + timedelta(days=1)
        ).add_extension(x509.BasicConstraints(ca=part == "ca", path_length=None), critical=True)
        if usage:
            builder = builder.add_extension(usage, critical=False)
        (directory / f"{name}.{part}").write_bytes(builder.sign(keys["ca"], hashes.SHA256()).public_bytes(pem))
    key = keys["crt"].private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    (directory / f"{name}.key").write_bytes(key)


class Server:
    """A running server."""

    def __init__(self, ca: bytes, port: int, health_port: int) -> None:
        self.ca, self.port, self.health_port = ca, port, health_port

    def context(self, **pair: Any) -> ssl.SSLContext:  # noqa: ANN401
        """A client's, with a certificate if ``certfile`` and ``keyfile`` are given."""
        context = ssl.create_default_context(cadata=self.ca.decode())
        if pair:
            context.load_cert_chain(**pair)
        return context

    def connect(self, context: ssl.SSLContext | None = None) -> http.client.HTTPSConnection:
        """A connection that checks the name as the API server does."""
        connection = _Connection("127.0.0.1", self.port, context=context or self.context(), timeout=10)
        connection.connect()
        return connection

    def ask(self, data: bytes = REVIEW, *, method: str = "POST", path: str = "/mutate") -> tuple[int, bytes]:
        """One request over a connection of its own."""
        connection = self.connect()
        try:
            connection.request(method, path, data)
            answer = connection.getresponse()
            return answer.status, answer.read()
        finally:
            connection.close()

    def health(self, path: str) -> tuple[int, str]:
        """What a probe sees."""
        connection = http.client.HTTPConnection("127.0.0.1", self.health_port, timeout=10)
        try:
            connection.request("GET", path)
            answer = connection.getresponse()
            return answer.status, answer.read().decode()
        finally:
            connection.close()


class _Connection(http.client.HTTPSConnection):
    """Goes to loopback and asks for the service's name."""

    def connect(self) -> None:
        http.client.HTTPConnection.connect(self)
        raw = self.sock
        try:
            self.sock = self._context.wrap_socket(raw, server_hostname=NAME)  # type: ignore[attr-defined]
        except OSError:
            raw.close()
            raise


@contextmanager
def serving(directory: Path, *, client_ca: Path | None = None, mutations: str = "mutations: {}") -> Iterator[Server]:
    """A server for the time of a test; its Secret is ``directory``/secret."""
    (directory / "secret").mkdir()
    issued = issue()
    write(directory / "secret", issued)
    process = WebhookProcess(configure(directory, mutations=mutations), client_ca, 0)
    thread = threading.Thread(target=process.run)
    thread.start()
    try:
        yield Server(issued.ca, *process.ports)
    finally:
        process.stop()
        thread.join()
