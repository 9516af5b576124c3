"""Ctrl-C, handled from the first moment on. Imports only modules that Python has already loaded.

Python raises KeyboardInterrupt wherever it is. Inside a library being loaded, this may abort the
process from C++ or return as one of the library's own errors; so it waits until the library is
loaded, and a second Ctrl-C ends the process at once. Elsewhere a library may mistake it for one of
its own errors and continue; so it is raised again until the process leaves.
"""

import os
import signal
import sys
from types import FrameType

from edgeprune.base.errors import STOPPED

WORDS = "edgeprune: Stopped."
pressed: list[int] = []
"""Signals received since `listen`."""
_LOADER = "<frozen importlib._bootstrap>"
_LOOK_AGAIN_SECONDS = 0.05
_can_wait = hasattr(signal, "setitimer")


def listen() -> None:
    """Raise KeyboardInterrupt for a Ctrl-C, as Python does, but never into a loading library."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _press)  # else it is ignored, as in the background


def stay() -> None:
    """Take a Ctrl-C as answered, while its KeyboardInterrupt is handled: the process goes on."""
    if _can_wait:
        signal.setitimer(signal.ITIMER_REAL, 0)
    pressed.clear()


def leave() -> None:
    """Let Ctrl-C end the process at once: only Python's own shutdown is left."""
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
    """Raise again, but not into the handling of an error, such as cleaning up."""
    if sys.exc_info()[1] is None:
        _press(number, frame)
    else:
        signal.setitimer(signal.ITIMER_REAL, _LOOK_AGAIN_SECONDS)


def _is_loading(frame: FrameType | None) -> bool:
    """True while a module is being imported, in this frame or one that called it."""
    while frame is not None and frame.f_code.co_filename != _LOADER:
        frame = frame.f_back
    return frame is not None
