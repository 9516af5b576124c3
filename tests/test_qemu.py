"""ARM instruction counts, where benchmarks/qemu/setup.py has been run."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from onnx_models import encoder_folder

ROOT = Path(__file__).parents[1]
READY = (ROOT / "build" / "qemu" / "count_instructions.so").exists() and shutil.which(
    "qemu-aarch64"
)


@pytest.mark.skipif(not READY, reason="benchmarks/qemu/setup.py has not been run here")
def test_more_products_take_as_many_more_instructions(tmp_path: Path) -> None:
    """Four more [16, 256] x [256, 256] products; NEON multiplies and adds 4 floats at a time."""
    light = encoder_folder(tmp_path / "light", depth=2, width=256)
    heavy = encoder_folder(tmp_path / "heavy", depth=6, width=256)
    command = [sys.executable, ROOT / "benchmarks" / "qemu" / "count.py", light, "--against", heavy]
    options = ["--tokens", "16", "--json", tmp_path / "counts.json"]
    found = subprocess.run([*command, *options], check=True, capture_output=True, text=True)
    assert "counts, not times" in found.stdout
    counts = json.loads((tmp_path / "counts.json").read_text())["counts"]["encoder"]
    least = 4 * 16 * 256 * 256 / 4
    assert least < counts["baseline"] - counts["candidate"] < 2 * least
