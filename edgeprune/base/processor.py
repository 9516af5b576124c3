"""Facts about this machine's processor, read once because asking takes seconds."""

import functools
from typing import Any


@functools.cache
def processor() -> dict[str, Any]:
    """py-cpuinfo's facts; `flags` and `brand_raw` are there where the system provides them."""
    import cpuinfo

    return dict(cpuinfo.get_cpu_info())


def flags() -> frozenset[str]:
    """The instruction sets that the processor reports, in the kernel's spelling."""
    return frozenset(processor().get("flags", []))
