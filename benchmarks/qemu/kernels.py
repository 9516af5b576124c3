"""Run the operator library's tests on ARM, under QEMU: `python benchmarks/qemu/kernels.py`.

    apt-get install g++-aarch64-linux-gnu
    python benchmarks/qemu/setup.py             # once
    python benchmarks/qemu/kernels.py [PYTEST OPTIONS]

The library is compiled anew for 64-bit ARM; the wheels that the tests need go into
build/qemu/test-packages once. Some minutes: QEMU takes 10 to 20 times as long as a processor.
"""

import shutil
import subprocess
import sys
from pathlib import Path

from setup import FOLDER, PACKAGES, ROOT, SYSROOT, arm_command, download

from edgeprune.kernels.compile import LIBRARY, compile_library

COMPILER = "aarch64-linux-gnu-g++"
TEST_PACKAGES = FOLDER / "test-packages"
_WHEELS = ("click", "hypothesis", "onnx", "psutil", "pytest", "rich", "scipy")
# They start Python by its path, which only QEMU can.
_STARTS_PROCESSES = ("inspect_tells_of_the_system", "the_unused_imports", "sanitizers")


def main() -> None:
    """Compile, fetch, and hand over to pytest; its exit code is this one's."""
    library = make_library(FOLDER / LIBRARY.name)
    if not TEST_PACKAGES.exists():
        download(TEST_PACKAGES, ("-c", str(ROOT / "constraints.txt"), *_WHEELS))
    selected = " and ".join(f"not {name}" for name in _STARTS_PROCESSES)
    options = ["-q", "-p", "no:cacheprovider", "-m", "not slow", "-k", selected]
    command = arm_command(
        *(
            "-m",
            "pytest",
            *options,
            *sys.argv[1:],
            str(ROOT / "tests" / "kernels" / "test_kernels.py"),
        ),
        packages=(PACKAGES, TEST_PACKAGES),
        settings={"EDGEPRUNE_TEST_LIBRARY": str(library)},
    )
    sys.exit(subprocess.run(command, cwd=ROOT, check=False).returncode)


def make_library(path: Path) -> Path:
    """Compile the operator library for ARM into a file."""
    if not (SYSROOT.exists() and PACKAGES.exists()):
        sys.exit("ARM Python is not here yet: run benchmarks/qemu/setup.py first.")
    if not shutil.which(COMPILER):
        sys.exit("Missing here: apt-get install g++-aarch64-linux-gnu")
    return compile_library(path, COMPILER, "aarch64")


if __name__ == "__main__":
    main()
