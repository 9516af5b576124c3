"""Make what runs ARM programs elsewhere: `python benchmarks/qemu/setup.py`, once, as root.

    apt-get install qemu-user debootstrap gcc

Into build/qemu go
- sysroot/: Debian 12 for ARM with Python 3.11, unpacked and never booted;
- packages/: the ARM wheels of numpy and onnxruntime;
- count_instructions.so: the plugin beside this file.

`arm_command` then runs a Python module there, counting its instructions. The pretended processor is
a Neoverse N1 (dot products, no INT8 matrix products). QEMU's `max` would compute INT8 wrongly: its
SME is at fault (QEMU 7.2).
"""

import shutil
import subprocess
import sys
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "build" / "qemu"
SYSROOT, PACKAGES = FOLDER / "sysroot", FOLDER / "packages"
PLUGIN = FOLDER / "count_instructions.so"
CPU = "neoverse-n1"
_RELEASE, _PYTHON = "bookworm", "3.11"
_WHEELS = ("numpy==2.4.6", "onnxruntime==1.31.1")
_TOOLS = {"qemu-aarch64": "qemu-user", "debootstrap": "debootstrap", "dpkg": "dpkg", "gcc": "gcc"}
# ONNX Runtime asks these files which instructions there are, and crashes on the host's own.
_CORES = 2
_CPUINFO = """processor\t: {core}
BogoMIPS\t: 50.00
Features\t: fp asimd evtstrm aes pmull sha1 sha2 crc32 atomics fphp asimdhp cpuid asimdrdm lrcpc \
dcpop asimddp ssbs
CPU implementer\t: 0x41
CPU architecture: 8
CPU variant\t: 0x3
CPU part\t: 0xd0c
CPU revision\t: 1

"""


def main() -> None:
    missing = [package for tool, package in _TOOLS.items() if not shutil.which(tool)]
    if missing:
        sys.exit(f"Missing here: apt-get install {' '.join(missing)}")
    for path, make in ((SYSROOT, make_sysroot), (PACKAGES, make_packages), (PLUGIN, make_plugin)):
        if not path.exists():
            print(f"Making {path.relative_to(ROOT)} ...", flush=True)
            make()
    try_out()
    print("ARM Python runs with ONNX Runtime.")


def try_out(**processor: Any) -> None:
    """Import what is counted: to see that it runs, and so that Python has compiled it before.

    Args:
        processor: `cpu` and `sysroot`, as `arm_command` has them.
    """
    code = "import edgeprune.measure.bench.worker, platform; print(platform.machine())"
    command = arm_command("-c", code, **processor)
    found = subprocess.run(command, capture_output=True, text=True, check=False)
    if found.stdout.strip() != "aarch64":
        sys.exit(f"ARM Python does not run: {found.stderr.strip() or found.stdout.strip()}")


def make_sysroot() -> None:
    """Debian for ARM with its Python."""
    unpack_debian(SYSROOT, ("python3-minimal", "python3", "libpython3-stdlib"))


def unpack_debian(folder: Path, packages: Sequence[str]) -> None:
    """Debian for ARM: fetched by debootstrap, unpacked by dpkg, so that nothing of it runs here."""
    aside = folder.with_suffix(".new")
    shutil.rmtree(aside, ignore_errors=True)
    included = f"--include={','.join(packages)}"
    options = ["--arch=arm64", "--foreign", "--variant=minbase", included]
    aside.mkdir(parents=True)
    subprocess.run(
        ["debootstrap", *options, _RELEASE, aside], check=True, stdout=subprocess.DEVNULL
    )
    for package in sorted((aside / "var/cache/apt/archives").glob("*.deb")):
        subprocess.run(["dpkg", "-x", package, aside], check=True)
        package.unlink()
    texts = {
        "proc/cpuinfo": "".join(_CPUINFO.format(core=core) for core in range(_CORES)),
        "sys/devices/system/cpu/possible": f"0-{_CORES - 1}\n",
        "sys/devices/system/cpu/present": f"0-{_CORES - 1}\n",
    }
    for name, text in texts.items():
        (aside / name).parent.mkdir(parents=True, exist_ok=True)
        (aside / name).write_text(text)
    aside.rename(folder)


def make_packages() -> None:
    """What runs a model."""
    download(PACKAGES, ("--no-deps", *_WHEELS))


def download(folder: Path, wanted: Sequence[str]) -> None:
    """Wheels for ARM, unpacked; their platforms are those of Debian 12's glibc and older.

    Args:
        wanted: packages, and options of `pip download`.
    """
    aside = folder.with_suffix(".new")
    shutil.rmtree(aside, ignore_errors=True)
    platforms = ("manylinux_2_28", "manylinux_2_27", "manylinux2014")
    options = [f"--platform={platform}_aarch64" for platform in platforms]
    options += ["--only-binary=:all:", f"--python-version={_PYTHON}", "--quiet"]
    wheels = aside / "wheels"
    subprocess.run(
        [sys.executable, "-m", "pip", "download", *options, "-d", wheels, *wanted], check=True
    )
    for wheel in wheels.glob("*.whl"):
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(aside)
    shutil.rmtree(wheels)
    aside.rename(folder)


def make_plugin() -> None:
    source = Path(__file__).with_name("count_instructions.c")
    subprocess.run(["gcc", "-O2", "-shared", "-fPIC", "-o", PLUGIN, source], check=True)


def arm_command(
    *arguments: str,
    log: Path | None = None,
    packages: Sequence[Path] = (PACKAGES,),
    settings: Mapping[str, str] | None = None,
    cpu: str = CPU,
    sysroot: Path = SYSROOT,
) -> list[str]:
    """The command that runs ARM Python with this checkout on its path, the same way each time.

    Args:
        log: where the count of instructions is written when it ends; None counts nothing.
        packages: folders of unpacked wheels.
        settings: environment variables besides.
        cpu: the processor that QEMU pretends; the sysroot's proc/cpuinfo must tell of the same.
    """
    settings = {
        "PYTHONPATH": ":".join(map(str, (*packages, ROOT))),
        "PYTHONHOME": f"{sysroot}/usr",
        "PYTHONPYCACHEPREFIX": str(FOLDER / "bytecode"),
        "PYTHONDONTWRITEBYTECODE": "",
        "PYTHONHASHSEED": "0",  # random hashes would take other instructions in each run
        "OMP_NUM_THREADS": "1",
        "ORT_DISABLE_TELEMETRY": "1",  # its threads count or not, as time would have it
        **(settings or {}),
    }
    # Addresses decide the order of Python's sets, and so what it executes.
    command = ["setarch", "--addr-no-randomize", "qemu-aarch64", "-cpu", cpu, "-L", str(sysroot)]
    for name, value in settings.items():
        command += ["-E", f"{name}={value}"]
    if log is not None:
        command += ["-plugin", str(PLUGIN), "-d", "plugin", "-D", str(log)]
    return [*command, f"{sysroot}/usr/bin/python{_PYTHON}", *arguments]


if __name__ == "__main__":
    main()
