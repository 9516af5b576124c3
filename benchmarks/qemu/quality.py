"""A bundle's quality on ARM, under QEMU, beside the same on this machine.

    python benchmarks/qemu/setup.py             # once
    EDGEPRUNE_DATA=<folder> python benchmarks/qemu/quality.py BUNDLE... [--limit 300]

BUNDLE embeds texts. Its STS-B dev (`edgeprune evaluate --task sts`) is taken in ARM's ONNX Runtime,
with the operator library compiled for ARM, and here: Spearman x 100, and the interval of the
paired difference over pairs of sentences. Roundings of INT8 activations flip from processor to
processor, so embeddings differ; their task must not. QEMU takes 10 to 20 times as long as a
processor. Prints a line of JSON a bundle.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import numpy as np
from kernels import make_library
from setup import CPU, FOLDER, ROOT, arm_command, download

from edgeprune.base.bootstrap import bootstrap
from edgeprune.kernels.compile import LIBRARY
from edgeprune.measure.evaluate.measures import evaluate
from edgeprune.measure.evaluate.sts import spearman

PAIRS = "pairs/stsb.dev.jsonl"
CHECKOUT = FOLDER / "checkout"
DEPENDENCIES = FOLDER / "dependencies"


def main() -> None:
    """Measure each bundle on both processors."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("bundles", type=Path, nargs="+", metavar="BUNDLE")
    parser.add_argument("--limit", type=int, default=300, help="pairs of sentences")
    given = parser.parse_args()
    folder = os.environ.get("EDGEPRUNE_DATA")
    if not folder:
        sys.exit("Point EDGEPRUNE_DATA at the folder with the texts (see the README).")
    prepare()
    for bundle in given.bundles:
        pairs = Path(folder) / PAIRS
        print(json.dumps(beside(bundle.absolute(), pairs.absolute(), given.limit)), flush=True)


def prepare() -> None:
    """This checkout's package with the operators for ARM, and what it needs to run a bundle."""
    shutil.rmtree(CHECKOUT, ignore_errors=True)
    skipped = shutil.ignore_patterns("__pycache__", "*.so")
    shutil.copytree(ROOT / "edgeprune", CHECKOUT / "edgeprune", ignore=skipped)
    make_library(CHECKOUT / "edgeprune" / "kernels" / LIBRARY.name)
    if not DEPENDENCIES.exists():
        project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
        wanted = ("-c", str(ROOT / "constraints.txt"), *project["dependencies"])
        download(DEPENDENCIES, wanted)


def beside(bundle: Path, pairs: Path, limit: int) -> dict[str, Any]:
    """What both processors make of the bundle."""
    options = [
        "--task",
        "sts",
        "--data",
        str(pairs),
        "--limit",
        str(limit),
        "--rows",
        "--json",
        "-",
    ]
    command = arm_command(
        *("-m", "edgeprune", "evaluate", str(bundle), *options),
        packages=(CHECKOUT, DEPENDENCIES),
    )
    # Python looks in the working folder first, and there must be the operators for ARM.
    done = subprocess.run(command, cwd=CHECKOUT, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{bundle} does not run on ARM: {done.stderr.strip()}")
    emulated = json.loads(done.stdout)
    native = evaluate(bundle, "sts", pairs, limit, keep_rows=True).to_json()
    cosines = [np.array(found["rows"]["bundle"]["cosine"]) for found in (emulated, native)]
    scores = np.array(native["rows"]["bundle"]["score"])

    def difference(chosen: np.ndarray) -> dict[str, float]:
        arm, here = (100 * spearman(each[chosen], scores[chosen]) for each in cosines)
        return {"arm": arm, "here": here, "difference": arm - here}

    everything = np.arange(len(scores))
    return {
        "bundle": bundle.parent.name,
        "processor": CPU,
        "pairs": len(scores),
        **difference(everything),
        "interval": bootstrap(difference, everything)["difference"],
        "cosines_apart": {
            "mean": float(np.abs(cosines[0] - cosines[1]).mean()),
            "largest": float(np.abs(cosines[0] - cosines[1]).max()),
        },
    }


if __name__ == "__main__":
    main()
