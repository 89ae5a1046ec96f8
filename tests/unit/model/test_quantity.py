from __future__ import annotations

from fractions import Fraction

import pytest

from cmk.model import quantity
from cmk.model.quantity import QuantityError


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("2", 2),
        ("+2", 2),
        ("-1", -1),
        ("1500m", Fraction(3, 2)),
        ("1k", 1000),
        ("2Ki", 2048),
        ("1e3", 1000),
        ("1E3", 1000),
        ("1E", 10**18),
        ("1e-1", Fraction(1, 10)),
        (".5", Fraction(1, 2)),
        ("5.", 5),
        ("100n", Fraction(1, 10**7)),
    ],
)
def test_what_the_api_accepts(text: str, value: Fraction) -> None:
    assert quantity.parse(text) == value


@pytest.mark.parametrize("text", ["", "a", "1 ", "1e", "1kk", "0x1", "1e999", "1_0", "²", "nan", "--1", "1" * 41])
def test_what_it_does_not(text: str) -> None:
    with pytest.raises(QuantityError, match="is not a valid quantity"):
        quantity.parse(text)


@pytest.mark.parametrize("text", ["1500m", "-1", "0.5"])
def test_only_whole_things_are_counted(text: str) -> None:
    with pytest.raises(QuantityError, match="is not a whole number"):
        quantity.whole(text)


def test_whole_numbers_in_other_words() -> None:
    assert [quantity.whole(text) for text in ("2000m", "1k", "0", "2.0")] == [2, 1000, 0, 2]
