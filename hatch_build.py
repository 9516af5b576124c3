"""Compiles the operator library into the wheel, or in place for an editable install.

A hook of hatchling's rather than scikit-build-core or CMake: the library is a few files and one
command, and an install must go through where no compiler is, with nothing else missing. Then the
wheel is the pure one, and `edgeprune inspect --system` says what would bring the library.

EDGEPRUNE_BUILD_KERNELS: "required" ends the build where the library cannot be compiled (releases
use it); "0" does not try.
"""

import importlib.util
import os
import shutil
import sysconfig
import tempfile
from pathlib import Path
from types import ModuleType
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface


class KernelsHook(BuildHookInterface):
    """Hatchling calls `initialize` before it collects the files, and `finalize` after."""

    _folder: Path | None = None

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        wanted = os.environ.get("EDGEPRUNE_BUILD_KERNELS", "1")
        if wanted == "0":
            return
        kernels = _compile_module(Path(self.root))
        self._folder = Path(tempfile.mkdtemp(prefix="edgeprune-"))
        editable = version == "editable"
        library = kernels.LIBRARY if editable else self._folder / kernels.LIBRARY.name
        try:
            kernels.compile_library(library)
        except kernels.CannotCompile as error:
            if wanted == "required":
                raise
            self.app.display_warning(f"Without the sparse operator library: {error}.")
            return
        if editable:
            return
        build_data["force_include"][str(library)] = f"edgeprune/kernels/{library.name}"
        build_data["pure_python"] = False
        platform = sysconfig.get_platform().replace("-", "_").replace(".", "_")
        # No part of CPython's interface is used: one wheel serves every release.
        build_data["tag"] = f"py3-none-{platform}"

    def finalize(self, version: str, build_data: dict[str, Any], artifact_path: str) -> None:
        if self._folder:
            shutil.rmtree(self._folder, ignore_errors=True)


def _compile_module(root: Path) -> ModuleType:
    """compile.py alone: the package's own imports are not there in an isolated build."""
    path = root / "edgeprune" / "kernels" / "compile.py"
    spec = importlib.util.spec_from_file_location("edgeprune_kernels_compile", path)
    if spec is None or spec.loader is None:
        raise FileNotFoundError(path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
