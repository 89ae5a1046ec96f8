from __future__ import annotations

import ssl
from datetime import UTC, datetime, timedelta
from pathlib import Path

import msgspec
import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID

from cmk.certificates import pki
from cmk.certificates.pki import Issued

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
NAMES = ("cmk-webhook.cmk.svc", "cmk-webhook")
LIFE = timedelta(days=90)


def issued(now: datetime = NOW, before: bytes = b"") -> Issued:
    return pki.issue(NAMES, now, LIFE, before)


def leaf(made: Issued) -> x509.Certificate:
    return x509.load_pem_x509_certificate(made.cert)


def test_a_server_certificate_on_p256() -> None:
    cert = leaf(issued())
    key = cert.public_key()
    assert isinstance(key, ec.EllipticCurvePublicKey)
    assert key.curve.name == "secp256r1"
    san = cert.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert san.get_values_for_type(x509.DNSName) == list(NAMES)
    assert list(cert.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value) == [ExtendedKeyUsageOID.SERVER_AUTH]
    assert cert.not_valid_before_utc == NOW - timedelta(hours=1)
    assert cert.not_valid_after_utc == NOW + LIFE


def test_key_identifiers_link_certificate_and_ca() -> None:
    made = issued()
    (ca,) = x509.load_pem_x509_certificates(made.ca)
    own = ca.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value.digest
    assert leaf(made).extensions.get_extension_for_class(x509.AuthorityKeyIdentifier).value.key_identifier == own
    assert ca.extensions.get_extension_for_class(x509.KeyUsage).value.key_cert_sign
    assert ca.extensions.get_extension_for_class(x509.BasicConstraints).value == x509.BasicConstraints(ca=True, path_length=0)


def test_a_strict_client_believes_it(tmp_path: Path) -> None:
    made = pki.issue(NAMES, datetime.now(UTC), LIFE)
    client = ssl.create_default_context(cadata=made.ca.decode())
    client.verify_flags |= ssl.VERIFY_X509_STRICT
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    (tmp_path / "both.pem").write_bytes(made.cert + made.key)
    server.load_cert_chain(tmp_path / "both.pem")
    one, two = ssl.MemoryBIO(), ssl.MemoryBIO()
    ours = client.wrap_bio(one, two, server_hostname=NAMES[0])
    theirs = server.wrap_bio(two, one, server_side=True)
    for side in (ours, theirs):
        with pytest.raises(ssl.SSLWantReadError):
            side.do_handshake()
    ours.do_handshake()
    theirs.do_handshake()


def test_a_name_of_63_characters() -> None:
    name = f"{'w' * 63}.{'n' * 63}.svc"
    made = pki.issue([name], NOW, LIFE)
    assert pki.fault(made, [name], NOW) == ""


def test_the_ca_before_is_trusted_until_the_next_change() -> None:
    first = issued()
    second = issued(before=first.ca)
    third = issued(before=second.ca)
    fourth = issued(before=third.ca)
    assert pki.is_trusted(first.ca, second.ca)
    assert len(x509.load_pem_x509_certificates(fourth.ca)) == pki.MAX_CAS
    assert not pki.is_trusted(first.ca, fourth.ca)


def test_a_ca_that_has_ended_is_left_out() -> None:
    first = issued()
    assert not pki.is_trusted(first.ca, issued(NOW + LIFE, first.ca).ca)


def test_nothing_is_trusted_by_nothing() -> None:
    assert not pki.is_trusted(b"", b"")
    assert not pki.is_trusted(b"rubbish", issued().ca)


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({}, ""),
        ({"cert": b""}, "unreadable"),
        ({"key": b"rubbish"}, "unreadable"),
        ({"key": issued().key}, "the key is another certificate's"),
        ({"ca": issued().ca}, "it is not signed by the CA beside it"),
        ({"ca": b""}, "it is not signed by the CA beside it"),
    ],
    ids=["nothing", "no certificate", "no key", "another key", "another CA", "no CA"],
)
def test_what_is_wrong_with_it(change: dict[str, bytes], why: str) -> None:
    found = pki.fault(msgspec.structs.replace(issued(), **change), NAMES, NOW)
    assert found.startswith(why)
    assert bool(found) == bool(why)


def test_for_other_names() -> None:
    assert pki.fault(issued(), ["other.cmk.svc"], NOW) == "it is not for other.cmk.svc"


def test_ended() -> None:
    assert pki.fault(issued(), NAMES, NOW + LIFE) == "it expired on 2026-05-30 12:00 UTC"


@pytest.mark.parametrize(("days", "due"), [(0, False), (59, False), (60, True), (89, True)])
def test_due_at_two_thirds_of_its_life(days: int, *, due: bool) -> None:
    assert pki.is_due(issued(), NOW + timedelta(days=days)) is due
