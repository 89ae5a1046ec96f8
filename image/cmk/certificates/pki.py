"""Certificates of the webhook: how one is issued, and how an existing one is checked. Pure but for random numbers.

Each certificate has a CA of its own, whose key is forgotten at once: nobody can sign another certificate with it. Clients trust the new CA
and the previous one until the next change.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime, timedelta

import msgspec
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

# So that an API server whose clock is behind takes the certificate for valid.
BACKDATED = timedelta(hours=1)
# The newest CA, the previous one, and one that an interrupted change may have left.
MAX_CAS = 3


class Issued(msgspec.Struct, frozen=True):
    """A certificate, its key, and the CAs that clients should trust, newest first; all PEM."""

    cert: bytes
    key: bytes
    ca: bytes


def issue(names: Iterable[str], now: datetime, lifetime: timedelta, trusted_before: bytes = b"") -> Issued:
    """A new certificate for these DNS names, on P-256; its CA comes before the CAs trusted so far."""
    ca_key, key = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    ca_name = _name(f"cmk webhook CA {now:%Y-%m-%d %H:%M:%S}")
    begin, end = now - BACKDATED, now + lifetime
    ca = (
        _builder(ca_name, ca_name, ca_key.public_key(), ca_key.public_key(), begin, end)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(signs_certificates=True), critical=True)
        .sign(ca_key, hashes.SHA256())
    )
    cert = (
        _builder(_name("cmk webhook"), ca_name, key.public_key(), ca_key.public_key(), begin, end)
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(name) for name in names]), critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(signs_certificates=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .sign(ca_key, hashes.SHA256())
    )
    pem = serialization.Encoding.PEM
    private = key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    return Issued(cert.public_bytes(pem), private, bundle(ca.public_bytes(pem), trusted_before, now=now))


def bundle(*pems: bytes, now: datetime) -> bytes:
    """The CAs of several files in one, each once, without expired ones, at most ``MAX_CAS``."""
    cas: list[x509.Certificate] = []
    for pem in pems:
        for ca in _read(pem):
            if ca not in cas and ca.not_valid_after_utc > now:
                cas.append(ca)
    return b"".join(ca.public_bytes(serialization.Encoding.PEM) for ca in cas[:MAX_CAS])


def is_trusted(wanted: bytes, by: bytes) -> bool:
    """Whether the file ``wanted`` has CAs, and the file ``by`` has each of them."""
    trusted = _read(by)
    return bool(_read(wanted)) and all(ca in trusted for ca in _read(wanted))


def fault(issued: Issued, names: Iterable[str], now: datetime) -> str:
    """Why a certificate cannot be used: unreadable, another's key, other names, not signed by its CA, expired. Empty when it can."""
    try:
        cert = x509.load_pem_x509_certificate(issued.cert)
        key = serialization.load_pem_private_key(issued.key, password=None)
    except (ValueError, TypeError) as error:
        return f"unreadable: {error}"
    public = serialization.PublicFormat.SubjectPublicKeyInfo, serialization.Encoding.DER
    if key.public_key().public_bytes(public[1], public[0]) != cert.public_key().public_bytes(public[1], public[0]):
        return "the key is another certificate's"
    try:
        extension = cert.extensions.get_extension_for_class(x509.SubjectAlternativeName)
        certified = set(extension.value.get_values_for_type(x509.DNSName))
    except (x509.ExtensionNotFound, ValueError):
        certified = set()
    if missing := [name for name in names if name not in certified]:
        return f"it is not for {missing[0]}"
    if not any(_signed(cert, ca) for ca in _read(issued.ca)):
        return "it is not signed by the CA beside it"
    if cert.not_valid_after_utc <= now:
        return f"it expired on {cert.not_valid_after_utc:%Y-%m-%d %H:%M} UTC"
    return ""


def is_due(issued: Issued, now: datetime) -> bool:
    """Whether two thirds of a certificate's life are over."""
    cert = x509.load_pem_x509_certificate(issued.cert)
    life = cert.not_valid_after_utc - cert.not_valid_before_utc
    return now >= cert.not_valid_before_utc + life * 2 / 3


def ends(cert: bytes) -> datetime:
    """When a certificate ends."""
    return x509.load_pem_x509_certificate(cert).not_valid_after_utc.astimezone(UTC)


def _builder(
    subject: x509.Name,
    issuer: x509.Name,
    public_key: ec.EllipticCurvePublicKey,
    issuer_key: ec.EllipticCurvePublicKey,
    begin: datetime,
    end: datetime,
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(public_key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(begin)
        .not_valid_after(end)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public_key), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key), critical=False)
    )


def _usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _name(common_name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])


def _read(pem: bytes) -> list[x509.Certificate]:
    try:
        return x509.load_pem_x509_certificates(pem)
    except ValueError:
        return []  # empty or not PEM: nothing in it is trusted


def _signed(cert: x509.Certificate, ca: x509.Certificate) -> bool:
    try:
        cert.verify_directly_issued_by(ca)
    except Exception:  # cryptography has an error class for each reason, and all of them mean no
        return False
    return True
