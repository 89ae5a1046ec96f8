import pytest

from cmk.model.printable import printable


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("cores of pool käse 核", "cores of pool käse 核"),
        ("a\nb\r\tc", "a\\nb\\r\\tc"),
        ("\x00\x1b[31m\x7f\x9b", "\\x00\\x1b[31m\\x7f\\x9b"),
        ("\u202egnp\u2066\u200b\u2028\ufeff", "\\u202egnp\\u2066\\u200b\\u2028\\ufeff"),
        ("\ud800", "\\ud800"),
    ],
)
def test_only_what_can_be_printed_stays_as_it_is(text: str, shown: str) -> None:
    assert printable(text) == shown
