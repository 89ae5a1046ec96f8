"""Kubernetes quantities: ``2``, ``1500m``, ``1k`` (which is how the API server writes 1000), ``2Ki``, ``1e3``."""

from __future__ import annotations

import re
from fractions import Fraction

from cmk.model.errors import CmkError

_NUMBER = r"([+-]?(?:[0-9]{1,40}(?:\.[0-9]{0,40})?|\.[0-9]{1,40}))"
_FORM = re.compile(_NUMBER + r"(?:[eE]([+-]?[0-9]{1,2})|(n|u|m|k|M|G|T|P|E|Ki|Mi|Gi|Ti|Pi|Ei)?)")
_DECIMAL = {"n": -9, "u": -6, "m": -3, "k": 3, "M": 6, "G": 9, "T": 12, "P": 15, "E": 18}
_BINARY = {"Ki": 10, "Mi": 20, "Gi": 30, "Ti": 40, "Pi": 50, "Ei": 60}


class QuantityError(CmkError):
    """A text is not a quantity that can be used; the message quotes its beginning.

    No text costs more than a moment, or makes a number that is longer than some 140 digits: longer ones do not match.
    """


def parse(text: str) -> Fraction:
    """The exact value; raises QuantityError."""
    match = _FORM.fullmatch(text)
    if not match:
        raise QuantityError(f"{text[:40]!r} is not a valid quantity")
    number, exponent, suffix = match.groups()
    value = Fraction(number)
    if suffix in _BINARY:
        return value * (1 << _BINARY[suffix])
    power = int(exponent) if exponent else _DECIMAL.get(suffix, 0)
    factor = Fraction(10 ** abs(power))
    return value * factor if power >= 0 else value / factor


def whole(text: str) -> int:
    """The value of a quantity that must be a whole number; raises QuantityError when it is negative or has a fraction."""
    value = parse(text)
    if value.denominator != 1 or value < 0:
        raise QuantityError(f"{text[:40]} is not a whole number")
    return int(value)
