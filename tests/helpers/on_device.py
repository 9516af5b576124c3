"""Code that runs as if nothing heavy were installed."""

import subprocess
import sys
from pathlib import Path

import edgeprune

ROOT = Path(edgeprune.__file__).parent


FILES = sorted(ROOT.rglob("*.py"))


HEAVY = (
    "torch",
    "transformers",
    "optimum",
    "safetensors",
    "sentence_transformers",
    "accelerate",
    "datasets",
    "matplotlib",
    "onnx",
    "onnx_ir",
    "onnxscript",
)


# Refuses the heavy packages, as if they were not installed, then runs what follows.
WITHOUT = f"""
import sys
class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {HEAVY!r}:
            raise ModuleNotFoundError(name + " is not installed on a device", name=name)
sys.meta_path.insert(0, Refuse())
"""


def on_a_device(code: str) -> str:
    found = subprocess.run(
        [sys.executable, "-c", WITHOUT + code], capture_output=True, text=True, check=False
    )
    assert found.returncode == 0, found.stderr
    return found.stdout


def modules(*places: str) -> list[str]:
    """Every module in these rooms and files."""
    found = []
    for place in places:
        path = ROOT / place
        files = sorted(path.rglob("*.py")) if path.is_dir() else [path.with_suffix(".py")]
        for file in files:
            parts = file.relative_to(ROOT.parent).with_suffix("").parts
            found.append(".".join(part for part in parts if part != "__init__"))
    assert len(found) >= len(places)
    return found
