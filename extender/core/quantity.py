"""Kubernetes quantities, GPU memory and headroom, exact to the byte.

A number never passes through a float: `9.6G` is 9,600,000,000 bytes, not nearly so.
Errors are one line: what is wrong, and a good value to write instead.
"""

import re
from decimal import Decimal
from fractions import Fraction
from functools import lru_cache
from typing import NamedTuple

MIB = 1024**2
MAX_FOOTPRINT = 1024**4
"""1 TiB: no GPU has more, so a larger footprint is a slip of the pen."""
MAX_HEADROOM = 10

_INT64_MAX = 2**63 - 1
_MAX_LENGTH = 64
_MAX_EXPONENT = 64
_GOOD = "a good quantity is 4, 500m, 9.6G or 12Gi"

# The grammar of k8s.io/apimachinery/pkg/api/resource: `.5` and `5.` are numbers, `E` alone is exa.
_QUANTITY = re.compile(
    r"([+-]?)([0-9]+\.?[0-9]*|\.[0-9]+)(Ki|Mi|Gi|Ti|Pi|Ei|[numkMGTPE]|[eE]([+-]?[0-9]+))?"
)
_SUFFIXES: dict[str | None, Fraction] = {
    None: Fraction(1),
    "n": Fraction(1, 10**9),
    "u": Fraction(1, 10**6),
    "m": Fraction(1, 10**3),
}
for _power, _letter in enumerate("kMGTPE", start=1):
    _SUFFIXES[_letter] = Fraction(1000**_power)
    _SUFFIXES[f"{_letter.upper()}i"] = Fraction(1024**_power)
_FRACTION = re.compile(r"([0-9]+\.?[0-9]*|\.[0-9]+)(%?)")
# What people write for GPU memory that Kubernetes does not read: `9.6`, `9.6GB`, `9,6 gb/s`.
_SLIP = re.compile(
    r"\s*([0-9]+(?:[.,][0-9]+)?|[.,][0-9]+)\s*(?:([kmgtp])(i?))?b?(?:/s)?\s*", re.IGNORECASE
)


class _Kind(NamedTuple):
    """What an amount of bytes is for."""

    example: str
    per: str
    most: int
    plausible_giga: int
    """A bare number up to this was meant in G, a larger one in M."""


_FOOTPRINT = _Kind("write a quantity such as 9.6G, at most 1Ti", "", MAX_FOOTPRINT, 1024)
_BANDWIDTH = _Kind("write a quantity such as 500G", "/s", 1024**5, 10_000)


class QuantityError(ValueError):
    """A value that is no quantity, or not one that fits here. One line, with a good value."""


def parse(text: object) -> Fraction:
    """The exact value of a Kubernetes quantity, as YAML or JSON gives it: str, int or float.

    Raises:
        QuantityError: not a quantity, or beyond what any Kubernetes resource can hold.
    """
    return _parse(_spelling(text, _GOOD))


def whole(text: object) -> int:
    """The quantity in whole units, rounded away from zero as `Quantity.Value()` does."""
    if type(text) is int and -_INT64_MAX <= text <= _INT64_MAX:
        return text
    return _whole(_spelling(text, _GOOD))


def milli(text: object) -> int:
    """The quantity in thousandths, rounded as `Quantity.MilliValue()` does; cpu is counted so."""
    return _milli(_spelling(text, _GOOD))


def footprint_bytes(text: object) -> int:
    """GPU memory that a model needs, as app teams and admins write it, in bytes rounded up.

    Raises:
        QuantityError: no quantity, below 1 MiB (`9` is 9 bytes) or above 1 TiB.
    """
    return _amount(text, _FOOTPRINT)


def bandwidth_bytes_s(text: object) -> int:
    """Memory bandwidth in bytes per second, rounded up: `500G` is 500 GB/s.

    Raises:
        QuantityError: no quantity, below 1 MiB/s (`500` is 500 bytes a second) or above 1 PiB/s.
    """
    return _amount(text, _BANDWIDTH)


def fraction(text: object) -> Fraction:
    """Headroom as a fraction: `30%` and `0.3` are 3/10, `0` is none; 0 to 10 (1000%).

    Raises:
        QuantityError: no such fraction, negative or above 10.
    """
    shown = _spelling(text, "write 30% or 0.3")
    if isinstance(text, int | float) and "e" in shown:
        shown = f"{Decimal(shown):f}"
    match = _FRACTION.fullmatch(shown)
    if match is None:
        raise QuantityError(f"{text!r} is no headroom: write 30% or 0.3, from 0 to 1000%")
    number, percent = match.groups()
    value = Fraction(number) / (100 if percent else 1)
    if value > MAX_HEADROOM:
        instead = (
            f"write {number}%" if not percent and value <= 100 * MAX_HEADROOM else "at most 1000%"
        )
        raise QuantityError(f"{text!r} is a headroom of {float(value * 100):g}%: {instead}")
    return value


def mib_up(count: int) -> int:
    """Bytes to MiB, rounded up."""
    return -(-count // MIB)


def need_mib(footprint: int, headroom: Fraction) -> int:
    """Footprint in bytes plus headroom, in MiB rounded up: what a slice must have."""
    numerator, denominator = headroom.numerator, headroom.denominator
    return -(-footprint * (denominator + numerator) // (denominator * MIB))


def format_mib(mib: int) -> str:
    """MiB as a quantity: 11000 is `11000Mi`."""
    return f"{mib}Mi"


def _spelling(text: object, good: str) -> str:
    """The text to read: a str as it is, numbers as Python spells them. Never a long one."""
    if isinstance(text, str):
        if len(text) <= _MAX_LENGTH:
            return text
    elif isinstance(text, int | float) and not isinstance(text, bool):
        if isinstance(text, float) or abs(text) < 10**_MAX_LENGTH:
            return repr(text)
    else:
        kind = "nothing" if text is None else f"a {type(text).__name__}"
        raise QuantityError(f"{kind} is no quantity: {good}")
    raise QuantityError(f"more than {_MAX_LENGTH} characters are no quantity: {good}")


@lru_cache(maxsize=4096)
def _parse(text: str) -> Fraction:
    match = _QUANTITY.fullmatch(text)
    if match is None:
        raise QuantityError(f"{text!r} is no quantity: {_GOOD}")
    sign, number, suffix, exponent = match.groups()
    if exponent is None:
        scale = _SUFFIXES[suffix]
    elif abs(power := int(exponent)) <= _MAX_EXPONENT:
        scale = Fraction(10**power) if power >= 0 else Fraction(1, 10**-power)
    else:
        raise QuantityError(f"{text!r} has an absurd exponent: {_GOOD}")
    value = Fraction(number) * scale
    return -value if sign == "-" else value


@lru_cache(maxsize=4096)
def _whole(text: str) -> int:
    value = _parse(text)
    return _round(value.numerator, value.denominator)


@lru_cache(maxsize=4096)
def _milli(text: str) -> int:
    value = _parse(text) * 1000
    return _round(value.numerator, value.denominator)


def _round(numerator: int, denominator: int) -> int:
    """Rounded away from zero, and held within int64 as Kubernetes holds it."""
    size = min(-(-abs(numerator) // denominator), _INT64_MAX)
    return -size if numerator < 0 else size


def _amount(text: object, kind: _Kind) -> int:
    shown = _spelling(text, kind.example)
    if _QUANTITY.fullmatch(shown) is None:
        raise QuantityError(f"{text!r} is no quantity: {_instead(shown, kind)}")
    value = _parse(shown)
    if value > kind.most:
        raise QuantityError(f"{text!r} is more than any GPU has: {kind.example}")
    if value >= MIB:
        return -(-value.numerator // value.denominator)
    if shown.endswith("m"):
        raise QuantityError(
            f"{text!r} counts thousandths of a byte{kind.per}: {_instead(shown, kind)}"
        )
    if shown[-1:].isdigit() and value > 0:
        raise QuantityError(f"{text!r} counts bytes{kind.per}: {_instead(shown, kind)}")
    raise QuantityError(f"{text!r} is less than 1Mi{kind.per}: {kind.example}")


def _instead(shown: str, kind: _Kind) -> str:
    """What to write: the number given, in the unit that was probably meant, where that fits."""
    slip = _SLIP.fullmatch(shown)
    if slip is None:
        return kind.example
    number = slip[1].replace(",", ".")
    if slip[2] is None:
        letter = "G" if Fraction(number) <= kind.plausible_giga else "M"
    else:
        letter = slip[2].upper()
    binary = f"{number}{letter}i"
    spellings = [binary] if slip[3] else [f"{number}{letter.replace('K', 'k')}", binary]
    match [s for s in spellings if MIB <= _parse(s) <= kind.most]:
        case [one, other]:
            return f"write {one} (or {other})"
        case [one]:
            return f"write {one}"
        case _:
            return kind.example
