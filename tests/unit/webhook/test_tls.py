from __future__ import annotations

import ssl
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from cmk.certificates import pki
from cmk.webhook import tls
from cmk.webhook.tls import Pair
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
