"""What a device does with an installed edgeprune, on what the first release built: every command
that needs neither torch nor onnx. Ends with 1 at the first that fails.

    python .ci/device.py     with the Python of the environment that edgeprune was installed into
"""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

FIRST = Path(__file__).resolve().parents[1] / "tests" / "fixtures" / "first_release" / "encoder"
HEAVY = ("torch", "transformers", "onnx")


def main() -> None:
    """Run them, one after another, from an empty folder: what is used is what was installed."""
    with TemporaryDirectory(prefix="edgeprune-") as scratch:
        os.chdir(scratch)
        assert "site-packages" in str(importlib.util.find_spec("edgeprune").origin)
        for name in HEAVY:
            assert importlib.util.find_spec(name) is None, f"{name} is here: this is no device"
        model, original = FIRST / "bundle", FIRST / "original"
        cosine = ("--task", "cosine", "--data", FIRST / "texts.txt", "--against", original)
        brief = ("--tokens", "16", "--time-limit", "1", "--launches", "2")
        edgeprune("--version")
        edgeprune("doctor")
        edgeprune("recipes", "encoder")
        edgeprune("inspect", model)
        edgeprune("run", model, "w001 w002")
        edgeprune("bench", model, "--against", original, *brief)
        edgeprune("evaluate", model, *cosine)
        edgeprune("check", model, "--against", original, *brief, "--max-slowdown", "1000%")


def edgeprune(*arguments: object) -> None:
    """Run the command; its failure ends this."""
    command = [sys.executable, "-m", "edgeprune", *map(str, arguments)]
    print("$ edgeprune", *arguments, flush=True)
    if code := subprocess.run(command, check=False).returncode:
        sys.exit(f"edgeprune {arguments[0]} ended with {code}")


if __name__ == "__main__":
    main()
