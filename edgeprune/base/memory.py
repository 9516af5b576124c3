"""Memory that this process does not need any more. glibc keeps what is freed; other C libraries
have no such calls."""

import ctypes
import sys
from typing import Any

_MMAP_THRESHOLD = -3
"""mallopt's number of the size from which on memory is asked of the system (malloc.h)."""
_LARGE = 1 << 20


def trim() -> None:
    """Give freed memory back to the system: what lies between blocks in use, which after a session
    are the runtime's packed weights."""
    _call("malloc_trim", 0)


def return_large_blocks() -> None:
    """Give every block of a megabyte and more back as soon as it is freed, from now on. By itself
    glibc raises that size to 32 megabytes once such blocks are freed, and keeps smaller ones."""
    _call("mallopt", _MMAP_THRESHOLD, _LARGE)


def _call(name: str, *given: int) -> None:
    function: Any = getattr(ctypes.CDLL(None), name, None) if sys.platform == "linux" else None
    if function is not None:
        function(*given)
