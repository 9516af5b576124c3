"""The compiled operator library: its location, registration, and support of this processor."""

import ctypes
import functools
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgeprune.base.errors import UserError, reason

if TYPE_CHECKING:
    import onnxruntime

LIBRARY = Path(__file__).parent / "libedgeprune_kernels.so"
# The environment variable that names the instruction set, for tests; by default the best is used.
CHOICE = "EDGEPRUNE_KERNELS"
HOW_TO_GET = (
    "install a C++ compiler (on Debian: apt install g++) "
    "and run `python -m edgeprune.kernels.compile`"
)


def installed() -> bool:
    """True where the library was built for this installation."""
    return LIBRARY.is_file()


def register(options: "onnxruntime.SessionOptions") -> None:
    """Let sessions created with these options run the sparse operators.

        options = onnxruntime.SessionOptions()
        edgeprune.kernels.register(options)
        session = onnxruntime.InferenceSession("model.onnx", options)

    Raises:
        UserError: the library is not installed, or ONNX Runtime cannot load it.
    """
    if not installed():
        raise UserError(f"The sparse operator library is not installed: {HOW_TO_GET}.")
    try:
        options.register_custom_ops_library(str(LIBRARY))
    except Exception as error:  # the runtime's own errors share no base class
        raise UserError(f"ONNX Runtime cannot load {LIBRARY}: {reason(error)}") from error


def system_facts() -> dict[str, Any]:
    """The library's state, as plain JSON values.

    "library": its path or None; "missing": what to do if it is None; "instruction_sets": those of
    the library, best first, and whether this processor has them; "chosen": the one that will run,
    None if EDGEPRUNE_KERNELS names one that the processor lacks.
    """
    if not installed():
        return {"library": None, "missing": HOW_TO_GET, "instruction_sets": {}, "chosen": None}
    library = _loaded()
    sets: dict[str, bool] = {}
    while name := library.edgeprune_set(len(sets)):
        sets[name.decode()] = bool(library.edgeprune_supports(name))
    chosen = library.edgeprune_chosen()
    return {
        "library": str(LIBRARY),
        "missing": None,
        "instruction_sets": sets,
        "chosen": chosen.decode() if chosen else None,
        "wanted": os.environ.get(CHOICE) or None,
    }


@functools.cache
def _loaded() -> ctypes.CDLL:
    library = ctypes.CDLL(str(LIBRARY))
    library.edgeprune_set.restype = ctypes.c_char_p
    library.edgeprune_set.argtypes = [ctypes.c_int]
    library.edgeprune_supports.argtypes = [ctypes.c_char_p]
    library.edgeprune_chosen.restype = ctypes.c_char_p
    return library
