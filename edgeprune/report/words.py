"""Numbers as words: sizes, counts, and significant digits."""

_UNITS = ((1e9, "GB"), (1e6, "MB"), (1e3, "kB"))


def size(count: float) -> str:
    """Bytes in the largest unit of which there is one: 16.9 MB."""
    for unit, name in _UNITS:
        if count >= unit:
            return f"{count / unit:.1f} {name}"
    return f"{count:.0f} bytes"


def many(count: int, noun: str) -> str:
    """1 tensor, 2 tensors."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def number(value: float, sign: str = "") -> str:
    """Four significant digits."""
    return f"{value:{sign}.4g}"


def listed(parts: list[str]) -> str:
    """One, two and three."""
    return " and ".join(filter(None, [", ".join(parts[:-1]), *parts[-1:]]))
