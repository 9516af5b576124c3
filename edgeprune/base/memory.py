"""Memory that this process does not need any more."""

import ctypes
import sys


def trim() -> None:
    """Give freed memory back to the system. glibc keeps what was freed between blocks in use, which
    after a session are the runtime's packed weights; other C libraries have no such call."""
    if sys.platform == "linux":
        give_back = getattr(ctypes.CDLL(None), "malloc_trim", None)
        if give_back is not None:
            give_back(0)
