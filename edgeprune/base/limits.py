"""The cores and the memory that this process may use, which a container or a scheduler may limit.

Linux's control groups, version 2 and 1: docs.kernel.org/admin-guide/cgroup-v2.html, files cpu.max
and memory.max, and cgroup-v1 with cpu.cfs_quota_us and memory.limit_in_bytes.
"""

import os
from pathlib import Path

import psutil

GROUPS = Path("/sys/fs/cgroup")
_OWN = Path("/proc/self/cgroup")


def usable_cores(groups: Path = GROUPS, own: Path = _OWN) -> float:
    """Cores that this process may keep busy: a share of one counts as its part.

    Args:
        groups: where the system shows its control groups.
        own: the file that names this process's.
    """
    allowed = (
        len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else psutil.cpu_count()
    )
    found = [float(allowed or 1)]
    for folder in _folders(groups, own, "cpu"):
        quota, _, period = _text(folder / "cpu.max").partition(" ")
        if not quota:
            quota = _text(folder / "cpu.cfs_quota_us")
            period = _text(folder / "cpu.cfs_period_us")
        if quota.isdigit() and period.isdigit() and int(period):
            found.append(int(quota) / int(period))
    return min(found)


def usable_memory(groups: Path = GROUPS, own: Path = _OWN) -> int:
    """Bytes of memory that this process may have, in all: the machine's, or a limit below it."""
    found = [psutil.virtual_memory().total]
    for folder in _folders(groups, own, "memory"):
        text = _text(folder / "memory.max") or _text(folder / "memory.limit_in_bytes")
        found += [int(text)] if text.isdigit() else []
    return min(found)


def _folders(groups: Path, own: Path, controller: str) -> list[Path]:
    """The folders of this process's groups and of those above them, of both versions."""
    found = [groups, groups / controller]
    for line in _text(own).splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers in ("", controller) or controller in controllers.split(","):
            root = groups / controller if controllers else groups
            inner = [root / part for part in Path(path.lstrip("/")).parents]
            found += [root / path.lstrip("/"), *inner]
    return list(dict.fromkeys(found))


def _text(file: Path) -> str:
    try:
        return file.read_text().strip()
    except OSError:
        return ""
