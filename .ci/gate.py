"""The gate on a demo model: build a tiny bundle, and compare it with the figures kept beside this.

    python .ci/gate.py           build and check, in well under a minute
    python .ci/gate.py --save    keep the figures of this build as the new baseline

The model is random but the same on every machine, so that its bytes, operators and hash are, too.
Its calls last microseconds: time against a kept figure would say nothing, so the bundle is compared
with itself, too, in an interleaved run, which must pass.
"""

import os
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from safetensors.numpy import load_file, save_file

HERE = Path(__file__).resolve().parent
BASELINE = HERE / "gate_baseline.json"
sys.path.insert(0, str(HERE.parent / "tests" / "helpers"))

from tiny_builds import model_folder, recipe_file, text_file  # noqa: E402

# Training on another processor ends elsewhere, and a random model has no quality to lose; that of
# shapes, formats and fusions is what this one can tell.
LIMITS = ("--max-drop", "50", "--max-slowdown", "100000", "--max-memory", "20")


def main() -> None:
    """Build, then save or check; ends with the gate's exit code."""
    with TemporaryDirectory(prefix="edgeprune-") as scratch:
        os.chdir(scratch)  # so that figures name no folder of this machine
        bundle = build()
        options = ("--tokens", "16", "--time-limit", "3")
        if sys.argv[1:] == ["--save"]:
            sys.exit(edgeprune("check", bundle, "--save", BASELINE, *options))
        kept = edgeprune("check", bundle, "--against", BASELINE, *options, *LIMITS)
        loose = ("--max-slowdown", "20", "--max-memory", "20")
        itself = edgeprune("check", bundle, "--against", bundle, *options, *loose)
        sys.exit(max(kept, itself))


def build() -> str:
    """The tiny recipe's bundle."""
    model = model_folder(Path("model"))
    exact_weights(model / "model.safetensors")
    recipe, text = recipe_file(Path("tiny.yaml")), text_file(Path("text.txt"))
    if code := edgeprune("build", recipe, "--model", model, "--data", text, "--output", "out"):
        sys.exit(code)
    return "out/bundle"


def exact_weights(file: Path) -> None:
    """Uniform random weights, which unlike normal ones need no function that processors round
    differently."""
    random = np.random.default_rng(0)
    tensors = {
        name: (random.random(tensor.shape) - 0.5 + (name.endswith("LayerNorm.weight"))).astype(
            tensor.dtype
        )
        for name, tensor in sorted(load_file(file).items())
    }
    save_file(tensors, file, metadata={"format": "pt"})


def edgeprune(*arguments: object) -> int:
    """Run the command; its exit code."""
    command = [sys.executable, "-m", "edgeprune", *map(str, arguments)]
    return subprocess.run(command, check=False).returncode


if __name__ == "__main__":
    main()
