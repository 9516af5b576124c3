"""Numbers as words: sizes, counts, and significant digits."""

import math
from collections.abc import Sequence

MEDIANS_APART = (
    "medians are over all turns, and the ratio over pairs of neighbouring ones, which a changing "
    "machine moves less"
)
_UNITS = ((1e9, "GB"), (1e6, "MB"), (1e3, "kB"))


def medians_contradict(quotient: float, low: float, value: float, high: float) -> bool:
    """Whether a quotient of medians seems to contradict a paired ratio: it lies outside the ratio's
    interval, or says faster where that says slower, in the digits that are shown."""
    quotient, low, value, high = (round(each, 3) for each in (quotient, low, value, high))
    return (quotient - 1) * (value - 1) < 0 or not low <= quotient <= high


def size(count: float) -> str:
    """Bytes in the largest unit of which there is one: 16.9 MB."""
    for unit, name in _UNITS:
        if count >= unit:
            return f"{count / unit:.1f} {name}"
    return f"{count:.0f} bytes"


def many(count: int, noun: str, plural: str | None = None) -> str:
    """1 tensor, 2 tensors; `plural` where it takes no s."""
    return f"{count:,} {noun if count == 1 else plural or f'{noun}s'}"


def number(value: float, sign: str = "") -> str:
    """Four significant digits."""
    return f"{value:{sign}.4g}"


def known(value: float, low: float, high: float, sign: str = "") -> tuple[str, str]:
    """A value, and its interval as "low to high" with the same decimals, so that the value stands
    inside: four significant digits, and two of the interval's width. An interval that is the value
    itself is left empty.
    """
    width = max(value, high) - min(value, low)
    if not width:
        return number(value, sign), ""
    largest = max(abs(value), abs(low), abs(high))
    decimals = max(0, 3 - _order(largest), 1 - _order(width))
    shown = [f"{figure:{sign}.{decimals}f}" for figure in (value, low, high)]
    return shown[0], f"{shown[1]} to {shown[2]}"


def _order(size: float) -> int:
    """The power of ten of the first digit."""
    return math.floor(math.log10(size))


def listed(parts: Sequence[str]) -> str:
    """One, two and three."""
    return " and ".join(filter(None, [", ".join(parts[:-1]), *parts[-1:]]))
