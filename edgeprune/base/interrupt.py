"""Ctrl-C, noticed from the first moment on. Nothing is imported here but what Python has loaded.

Python raises KeyboardInterrupt wherever it is. In a library that is being loaded this may end the
process from C++, or come back as an error of the library's own; so it waits there until the library
is loaded, and a second Ctrl-C ends the process at once. Elsewhere a library may take it for an
error of its own, and go on; so it is raised again until the process leaves.
"""

import os
import signal
import sys
from types import FrameType

from edgeprune.base.errors import STOPPED

WORDS = "edgeprune: Stopped."
pressed: list[int] = []
"""The signals that came since `listen`."""
_LOADER = "<frozen importlib._bootstrap>"
_LOOK_AGAIN_SECONDS = 0.05
_can_wait = hasattr(signal, "setitimer")


def listen() -> None:
    """Raise KeyboardInterrupt for a Ctrl-C, as Python does, but never into a loading library."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _press)  # else it is ignored, as in the background


def leave() -> None:
    """Let a Ctrl-C end the process at once: what is left to do is Python's own."""
    if _can_wait:
        signal.signal(signal.SIGALRM, signal.SIG_IGN)  # first: nothing is raised from here
        signal.setitimer(signal.ITIMER_REAL, 0)
    if signal.getsignal(signal.SIGINT) is _press:
        signal.signal(signal.SIGINT, signal.SIG_DFL)


def _press(number: int, frame: FrameType | None) -> None:
    again = bool(pressed) and number == signal.SIGINT
    pressed.append(number)
    if not _can_wait:
        raise KeyboardInterrupt
    loading = _is_loading(frame)
    if again and loading:
        os.write(2, f"{WORDS}\n".encode())
        os._exit(STOPPED)
    signal.signal(signal.SIGALRM, _look_again)
    signal.setitimer(signal.ITIMER_REAL, _LOOK_AGAIN_SECONDS)
    if not loading:
        raise KeyboardInterrupt


def _look_again(number: int, frame: FrameType | None) -> None:
    """Press again, but not into what is being done because of an error, such as tidying up."""
    if sys.exc_info()[1] is None:
        _press(number, frame)
    else:
        signal.setitimer(signal.ITIMER_REAL, _LOOK_AGAIN_SECONDS)


def _is_loading(frame: FrameType | None) -> bool:
    """Whether a module is being imported, in this frame or one that called it."""
    while frame is not None and frame.f_code.co_filename != _LOADER:
        frame = frame.f_back
    return frame is not None
