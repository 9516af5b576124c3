"""The facts about this machine that matter for a measurement."""

import os
import platform
from pathlib import Path

import onnxruntime
import psutil

from edgeprune.base import processor
from edgeprune.base.version import __version__
from edgeprune.measure.bench.record import Machine

# Instruction sets that matrix products use.
_FLAG_PREFIXES = ("avx", "amx", "fma", "f16c", "sse4", "ssse3")
_ARM_FLAGS = ("asimd", "asimddp", "asimdhp", "bf16", "i8mm", "neon", "sve", "sve2", "sme")
COMPARABLE = (
    "processor",
    "architecture",
    "flags",
    "physical_cores",
    "logical_cores",
    "governor",
    "onnxruntime",
)
"""The facts that must agree before times or memory of two runs are compared."""
_BOARD = Path("/proc/device-tree/model")
_GOVERNOR = Path("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor")


def machine_facts() -> Machine:
    """This machine as it is now."""
    facts = processor.processor()
    flags = sorted(
        flag
        for flag in facts.get("flags", [])
        if flag.startswith(_FLAG_PREFIXES) or flag in _ARM_FLAGS
    )
    return Machine(
        processor=facts.get("brand_raw") or platform.processor() or None,
        device=_BOARD.read_text().strip(" \0\n") or None if _BOARD.is_file() else None,
        architecture=platform.machine(),
        flags=tuple(flags),
        physical_cores=psutil.cpu_count(logical=False),
        logical_cores=psutil.cpu_count(),
        memory_bytes=psutil.virtual_memory().total,
        load_average=os.getloadavg() if hasattr(os, "getloadavg") else None,
        governor=_GOVERNOR.read_text().strip() if _GOVERNOR.is_file() else None,
        system=platform.platform(),
        python=platform.python_version(),
        onnxruntime=onnxruntime.__version__,
        edgeprune=__version__,
    )
