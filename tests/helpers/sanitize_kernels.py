"""Run the kernels' tests on a library built with a sanitizer of GCC's.

python tests/helpers/sanitize_kernels.py address|undefined FOLDER
"""

import os
import subprocess
import sys
from pathlib import Path

from edgeprune.kernels.compile import compile_library, find_compiler

RUNTIMES = {"address": "libasan.so", "undefined": "libubsan.so"}
FLAGS = {
    "address": ("-fsanitize=address", "-fno-omit-frame-pointer", "-g", "-O1"),
    "undefined": ("-fsanitize=undefined", "-fno-sanitize-recover=all", "-g", "-O1"),
}


def main() -> int:
    """The exit code of pytest."""
    sanitizer, folder = sys.argv[1], Path(sys.argv[2])
    library = compile_library(folder / "libsanitized.so", extra=FLAGS[sanitizer])
    # The sanitizer looks for libstdc++'s throw when it starts: before Python would load that.
    preloaded = [where(name) for name in (RUNTIMES[sanitizer], "libstdc++.so")]
    environment = {
        **os.environ,
        "EDGEPRUNE_TEST_LIBRARY": str(library),
        # Loaded first, as the interpreter is not built with it; Python itself never frees all.
        "LD_PRELOAD": " ".join(preloaded),
        "ASAN_OPTIONS": "detect_leaks=0",
        "UBSAN_OPTIONS": "print_stacktrace=1",
    }
    tests = Path(__file__).parents[1] / "kernels"
    names = "products or epilogues or quantiz or hostile or threads or callers"
    line = [sys.executable, "-m", "pytest", "-q", "--hypothesis-profile=sanitized"]
    line += ["-m", "not slow", "-k", names, str(tests)]
    return subprocess.run(line, env=environment, check=False).returncode


def where(name: str) -> str:
    """The path of one of the compiler's libraries."""
    line = [*find_compiler(), f"-print-file-name={name}"]
    return subprocess.run(line, capture_output=True, text=True, check=True).stdout.strip()


if __name__ == "__main__":
    sys.exit(main())
