"""Releases of libraries, compared by their numbers."""


def release(version: str) -> tuple[int, ...]:
    """The numbers of a version: 1.31.0rc1 gives (1, 31, 0)."""
    numbers = []
    for part in version.split("."):
        digits = part[: len(part) - len(part.lstrip("0123456789"))]
        if not digits:
            break
        numbers.append(int(digits))
    return tuple(numbers)
