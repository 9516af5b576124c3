"""What this machine's processor says of itself, read once: asking takes seconds."""

import functools
from typing import Any


@functools.cache
def processor() -> dict[str, Any]:
    """py-cpuinfo's facts; `flags` and `brand_raw` are there where the system tells."""
    import cpuinfo

    return dict(cpuinfo.get_cpu_info())


def flags() -> frozenset[str]:
    """The instruction sets that the processor announces, as the kernel spells them."""
    return frozenset(processor().get("flags", []))
