"""The memory that this process may have, which a container or a scheduler may limit.

Linux's control groups, version 2 (memory.max) and 1 (memory.limit_in_bytes).
"""

from pathlib import Path

import psutil

from edgeprune.base.cores import ROOT, control_groups, read_small


def usable_memory(root: Path = ROOT) -> int:
    """Bytes in all: the machine's, or the least limit of the control groups above this process.

    Args:
        root: where the system's files lie.
    """
    found = [psutil.virtual_memory().total]
    for folder in control_groups("memory", root):
        text = read_small(folder / "memory.max") or read_small(folder / "memory.limit_in_bytes")
        found += [int(text)] if text.isdecimal() else []
    return min(found)
