"""Cores that may be used, by the system's files as containers and processors of two kinds have
them."""

import os

import psutil
import pytest

from edgeprune.base import cores
from edgeprune.base.cores import all_cores, usable_cores


@pytest.fixture
def machine(tmp_path, monkeypatch):
    """Write a machine's files, and make it this one."""

    def made(cpus=8, allowed=None, files=None, group="0::/\n", threads=1):
        monkeypatch.setattr(cores, "allowed_cpus", lambda: allowed or list(range(cpus)))
        monkeypatch.setattr(os, "cpu_count", lambda: cpus)
        own = {"proc/self/cgroup": group, **(files or {})}
        for cpu in range(cpus):
            first = cpu - cpu % threads
            name = f"sys/devices/system/cpu/cpu{cpu}/topology/core_cpus_list"
            own[name] = f"{first}-{first + threads - 1}\n"
        for name, text in own.items():
            file = tmp_path / name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text)
        return tmp_path

    return made


def capacities(values):
    return {
        f"sys/devices/system/cpu/cpu{cpu}/cpu_capacity": f"{value}\n"
        for cpu, value in enumerate(values)
    }


def test_this_machine_has_as_many_cores_as_another_library_finds():
    assert all_cores() == (psutil.cpu_count(logical=False) or psutil.cpu_count())
    assert 1 <= usable_cores() <= all_cores()


def test_all_cores_where_nothing_limits_them(machine):
    assert usable_cores(machine()) == 8


def test_threads_of_a_core_count_once(machine):
    root = machine(threads=2)
    assert (usable_cores(root), all_cores(root)) == (4, 4)


def test_affinity_limits(machine):
    assert usable_cores(machine(allowed=[2, 5, 7])) == 3


@pytest.mark.parametrize(("quota", "cores"), [("200000", 2), ("150000", 1), ("20000", 1)])
def test_a_share_of_time_limits(machine, quota, cores):
    """What is left of a core would hold all others up."""
    root = machine(files={"sys/fs/cgroup/cpu.max": f"{quota} 100000\n"})
    assert usable_cores(root) == cores
    assert all_cores(root) == 8


def test_no_limit_is_none(machine):
    assert usable_cores(machine(files={"sys/fs/cgroup/cpu.max": "max 100000\n"})) == 8


def test_the_least_share_of_all_groups_above_counts(machine):
    files = {
        "sys/fs/cgroup/a/cpu.max": "300000 100000\n",
        "sys/fs/cgroup/a/b/cpu.max": "500000 100000\n",
    }
    assert usable_cores(machine(files=files, group="0::/a/b\n")) == 3


@pytest.mark.parametrize("mount", ["cpu", "cpu,cpuacct"])
def test_the_first_version_of_control_groups(machine, mount):
    folder = f"sys/fs/cgroup/{mount}/docker/x"
    files = {f"{folder}/cpu.cfs_quota_us": "400000\n", f"{folder}/cpu.cfs_period_us": "100000\n"}
    group = "4:memory:/docker/y\n1:cpu,cpuacct:/docker/x\n"
    assert usable_cores(machine(files=files, group=group)) == 4
    files[f"{folder}/cpu.cfs_quota_us"] = "-1\n"
    assert usable_cores(machine(files=files, group=group)) == 8


def test_a_container_that_sees_the_hosts_path_reads_its_own_root(machine):
    files = {"sys/fs/cgroup/cpu.max": "100000 100000\n"}
    assert usable_cores(machine(files=files, group="0::/kubepods/pod1/abc\n")) == 1


def test_slow_cores_are_left_out(machine):
    """A Cortex-A72 beside an A53, and three kinds, of which two are near each other."""
    assert usable_cores(machine(cpus=6, files=capacities([381] * 4 + [1024] * 2))) == 2
    assert usable_cores(machine(files=capacities([250] * 4 + [870] * 3 + [1024]))) == 4


def test_intels_performance_cores(machine):
    files = {"sys/devices/cpu_core/cpus": "0-3\n", "sys/devices/cpu_atom/cpus": "4-7\n"}
    assert usable_cores(machine(files=files)) == 4
    assert usable_cores(machine(files=files, allowed=[5, 6])) == 2


def test_files_that_make_no_sense_limit_nothing(machine):
    files = {"sys/fs/cgroup/cpu.max": "\xff\xfe lots\n", "sys/devices/cpu_core/cpus": "?\n"}
    assert usable_cores(machine(files=files)) == 8
