"""Compile the operator library: `python -m edgeprune.kernels.compile`.

The package's build hook runs this file by its path, so it imports nothing of edgeprune. Each
instruction set is a file with its own flags; no flag depends on the compiling processor.
"""

import os
import platform
import shlex
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).parent
SOURCES = HERE / "src"
LIBRARY = HERE / "libedgeprune_kernels.so"

COMMON: dict[str, tuple[str, ...]] = dict.fromkeys(
    (
        "operators",
        "sparse_linear",
        "weights",
        "run",
        "quant_linear",
        "quant_weights",
        "quant_run",
        "row_attention",
        "row_attention_run",
        "choose",
        "plain",
    ),
    (),
)
UNITS: dict[str, dict[str, tuple[str, ...]]] = {
    "x86_64": {
        **COMMON,
        "avx2": ("-mavx2", "-mfma", "-mf16c"),
        "avxvnni": ("-mavx2", "-mfma", "-mf16c", "-mavxvnni"),
        "avx512vnni": (
            "-mavx512f",
            "-mavx512bw",
            "-mavx512dq",
            "-mavx512vl",
            "-mavx512vnni",
            "-mfma",
        ),
    },
    "aarch64": {**COMMON, "neondot": ("-march=armv8.2-a+dotprod",)},
}
FLAGS = (
    "-std=c++17",
    "-O3",
    "-fPIC",
    "-fvisibility=hidden",
    "-fno-exceptions",
    "-fno-rtti",
    "-fno-math-errno",
    "-ffp-contract=off",  # or the sets would round differently
    "-Wall",
    "-Wextra",
)
LINK = (
    "-shared",
    "-s",
    "-Wl,--exclude-libs,ALL",
    "-static-libstdc++",
    "-static-libgcc",
    "-Wl,--no-undefined",
)


class CannotCompile(Exception):
    """There is no library, for a reason given in a sentence."""


def compile_library(
    output: Path = LIBRARY,
    compiler: str | None = None,
    architecture: str | None = None,
    extra: tuple[str, ...] = (),
) -> Path:
    """Compile and link the library; return its path.

    Args:
        compiler: the C++ compiler; by default CXX of the environment, else c++, g++ or clang++.
        architecture: the target, by default this machine's: "x86_64" or "aarch64".
        extra: more flags for compiler and linker, such as a sanitizer's.

    Raises:
        CannotCompile: no compiler, another system than Linux, or an error of the compiler.
    """
    architecture = architecture or platform.machine()
    if sys.platform != "linux" or architecture not in UNITS:
        raise CannotCompile(
            f"the operator library is for Linux on {' and '.join(UNITS)}, and this is "
            f"{sys.platform} on {architecture}"
        )
    command = find_compiler(compiler)
    with tempfile.TemporaryDirectory() as folder:
        running = []
        objects = []
        for unit, flags in UNITS[architecture].items():
            objects.append(f"{folder}/{unit}.o")
            line = [*command, *FLAGS, *flags, *extra, "-c", str(SOURCES / f"{unit}.cpp")]
            running.append(_start([*line, "-o", objects[-1]]))
        for process in running:
            _finish(process)
        built = Path(folder) / output.name
        _finish(_start([*command, *objects, *extra, *LINK, "-o", str(built)]))
        # Write beside it, then rename: a process may have the old one open.
        beside = output.with_name(f".{output.name}.{os.getpid()}")
        shutil.copy2(built, beside)
        beside.replace(output)
    return output


def find_compiler(name: str | None = None) -> list[str]:
    """The compiler's command: `name`, the environment's CXX, or the first that is installed.

    Raises:
        CannotCompile: there is none.
    """
    name = name or os.environ.get("CXX")
    if name:
        command = shlex.split(name)
        if not shutil.which(command[0]):
            raise CannotCompile(f"the C++ compiler {command[0]} is not installed")
        return command
    for candidate in ("c++", "g++", "clang++"):
        if shutil.which(candidate):
            return [candidate]
    raise CannotCompile("no C++ compiler is installed (on Debian: apt install g++)")


def _start(line: list[str]) -> "subprocess.Popen[str]":
    return subprocess.Popen(line, stderr=subprocess.PIPE, text=True)


def _finish(process: "subprocess.Popen[str]") -> None:
    _, errors = process.communicate()
    if process.returncode:
        first = next((line for line in errors.splitlines() if "error" in line), errors.strip())
        raise CannotCompile(f"the C++ compiler failed: {first}")


if __name__ == "__main__":
    try:
        print(compile_library())
    except CannotCompile as error:
        sys.exit(f"edgeprune: {error}.")
