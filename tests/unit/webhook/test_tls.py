from __future__ import annotations

import ssl
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtensionOID, NameOID

from cmk.certificates import pki
from cmk.webhook import tls
from cmk.webhook.tls import Pair, PairError
from tests.unit.webhook.serving import NAME


def pair(tmp_path: Path, now: datetime) -> Pair:
    issued = pki.issue([NAME], now, timedelta(days=1))
    (tmp_path / "tls.crt").write_bytes(issued.cert)
    (tmp_path / "tls.key").write_bytes(issued.key)
    return Pair(tmp_path / "tls.crt", tmp_path / "tls.key")


def test_what_is_spoken(tmp_path: Path) -> None:
    made = pair(tmp_path, datetime.now(UTC))
    newest = tls.load(made).context
    for context in (newest, tls.base_context(made, lambda: newest)):
        assert context.minimum_version == ssl.TLSVersion.TLSv1_2
        assert context.num_tickets == 0
        assert context.verify_mode == ssl.CERT_NONE


def test_the_end_is_the_certificates(tmp_path: Path) -> None:
    now = datetime.now(UTC)
    assert tls.load(pair(tmp_path, now)).not_after == int((now + timedelta(days=1)).timestamp())


@pytest.mark.parametrize("days", [-3, 3], ids=["ended", "not begun"])
def test_one_that_is_not_valid_by_our_clock_is_served_all_the_same(tmp_path: Path, days: int) -> None:
    assert tls.load(pair(tmp_path, datetime.now(UTC) + timedelta(days=days))).not_after is None


@pytest.mark.parametrize("name", ["tls.crt", "tls.key"])
def test_a_file_that_is_none_is_named(tmp_path: Path, name: str) -> None:
    made = pair(tmp_path, datetime.now(UTC))
    (tmp_path / name).write_text("rubbish")
    with pytest.raises(tls.PairError, match=r"tls.crt and .*tls.key: "):
        tls.load(made)


def test_a_path_that_no_file_can_have_is_refused(tmp_path: Path) -> None:
    with pytest.raises(PairError, match="null byte"):
        tls.load(Pair(Path("a\0b"), tmp_path / "key"))


def test_a_certificate_whose_name_cannot_be_read_is_refused(tmp_path: Path) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "x")])
    latin1 = b"f\xfc.example"
    names = x509.UnrecognizedExtension(
        ExtensionOID.SUBJECT_ALTERNATIVE_NAME, bytes([0x30, len(latin1) + 2, 0x82, len(latin1)]) + latin1
    )
    now = datetime.now(UTC)
    builder = x509.CertificateBuilder(name, name, key.public_key(), 5, now - timedelta(hours=1), now + timedelta(days=1))
    cert = builder.add_extension(names, critical=False).sign(key, hashes.SHA256())
    pair = Pair(tmp_path / "cert", tmp_path / "key")
    pair.cert.write_bytes(cert.public_bytes(serialization.Encoding.PEM))
    pair.key.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    with pytest.raises(PairError, match=r"cert: .*codec"):
        tls.load(pair)
