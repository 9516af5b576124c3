"""The cores that this process may keep busy: not all that the machine has.

A container's share of time, the affinity that was set, and, where cores are of several kinds, the
fastest kind alone: a matrix product waits for its slowest thread. Threads of one core count once,
as they share its multipliers. More threads than this are slower, by a share of time many times
slower: they spend it waiting for each other.
"""

import os
import re
from collections.abc import Iterator
from pathlib import Path

_NEAR = 0.8
"""Of the fastest core's capacity: one that has less is of another kind."""
ROOT = Path("/")


def allowed_cpus() -> list[int]:
    """The numbers of the processors that the system lets this process run on."""
    if hasattr(os, "sched_getaffinity"):
        return sorted(os.sched_getaffinity(0))
    return list(range(os.cpu_count() or 1))


def usable_cores(root: Path = ROOT) -> int:
    """The number of threads that heavy work should have by default, at least 1.

    Args:
        root: where the system's files lie.
    """
    cpus = _of_the_fastest_kind(allowed_cpus(), root)
    cores = len({_core(cpu, root) for cpu in cpus})
    return max(1, min([cores, *(int(share) for share in _shares(root))]))


def all_cores(root: Path = ROOT) -> int:
    """The number of cores of the machine, whatever may be used of them."""
    return len({_core(cpu, root) for cpu in range(os.cpu_count() or 1)})


def _core(cpu: int, root: Path) -> str:
    """A name for the core of a processor: the processors that share it."""
    folder = _cpu(cpu, root) / "topology"
    return (
        read_small(folder / "core_cpus_list")
        or read_small(folder / "thread_siblings_list")
        or str(cpu)
    )


def _of_the_fastest_kind(cpus: list[int], root: Path) -> list[int]:
    """ARM's cores tell their capacity; Intel's two kinds have a list of their processors each."""
    told = {cpu: int(read_small(_cpu(cpu, root) / "cpu_capacity") or 0) for cpu in cpus}
    fast = [cpu for cpu, capacity in told.items() if capacity >= _NEAR * max(told.values())]
    performance = set(_numbers(read_small(root / "sys/devices/cpu_core/cpus")))
    return [cpu for cpu in fast if cpu in performance] or fast


def _shares(root: Path) -> Iterator[float]:
    """The cores' worth of time that each control group above this process leaves it, where there is
    a limit (cgroup v2: cpu.max; v1: cpu.cfs_quota_us over cpu.cfs_period_us)."""
    for folder in control_groups("cpu", root):
        quota, _, period = read_small(folder / "cpu.max").partition(" ")
        if not quota:
            quota = read_small(folder / "cpu.cfs_quota_us")
            period = read_small(folder / "cpu.cfs_period_us")
        if quota.isdecimal() and period.isdecimal() and int(period) > 0:
            yield int(quota) / int(period)


def control_groups(controller: str, root: Path = ROOT) -> Iterator[Path]:
    """The folders of this process's control groups and of those above them, of both versions.

    Args:
        controller: cpu or memory.
    """
    mounted = root / "sys/fs/cgroup"
    for line in read_small(root / "proc/self/cgroup").splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers and controller not in controllers.split(","):
            continue
        for base in dict.fromkeys((mounted, mounted / controller, mounted / controllers)):
            own = base / path.lstrip("/")
            # In a container the path may be the host's: its own group is then the root's.
            for folder in (own, *own.parents):
                if not folder.is_relative_to(base):
                    break
                yield folder


def _cpu(number: int, root: Path) -> Path:
    return root / f"sys/devices/system/cpu/cpu{number}"


def _numbers(text: str) -> Iterator[int]:
    """The numbers of a list such as 0-3,8."""
    for first, last in re.findall(r"(\d+)(?:-(\d+))?", text):
        yield from range(int(first), int(last or first) + 1)


def read_small(file: Path) -> str:
    """A small file's text; empty where it cannot be read."""
    try:
        return file.read_text(encoding="ascii").strip()
    except (OSError, ValueError):
        return ""
