"""An install for a device: its size by package, and the CPU time that a command takes to start.

    python benchmarks/device_install.py [--folder FOLDER] [--times N]

A new environment in FOLDER gets edgeprune of this checkout with `pip install`, which compiles to
bytecode; pip and setuptools, which made it, are not counted. The start is `edgeprune run` on the
small bundle of the first release, beside a program of the same environment that does no more than
load that model: it imports ONNX Runtime and tokenizers and opens graph and tokenizer. Both are
started in turn, N times each, and their CPU seconds count, of all their threads, the interpreter's
own start among them. A line of JSON each goes into results/device_install.jsonl.
"""

import argparse
import json
import os
import resource
import statistics
import subprocess
import venv
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from results_file import add_result

from edgeprune.base.processor import processor

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results" / "device_install.jsonl"
BUNDLE = ROOT / "tests" / "fixtures" / "first_release" / "encoder" / "bundle"
MADE_BY = ("pip", "setuptools")
SIZES = """
import json
from importlib.metadata import distributions
from pathlib import Path
found = {}
for each in distributions():
    files = [Path(each.locate_file(file)) for file in each.files or ()]
    sizes = [file.stat().st_size for file in set(files) if file.is_file()]
    found[each.metadata["Name"]] = [each.version, sum(sizes)]
print(json.dumps(found))
"""
LOADS = f"""
import onnxruntime
from tokenizers import Tokenizer
Tokenizer.from_file({str(BUNDLE / "tokenizer.json")!r})
options = onnxruntime.SessionOptions()
options.intra_op_num_threads = 1
onnxruntime.InferenceSession({str(BUNDLE / "onnx" / "model.onnx")!r}, options)
"""
# Bytecode is read, as on a device, and nothing but the main thread computes.
SURROUNDINGS = {"OMP_NUM_THREADS": "1", "PATH": os.environ["PATH"]}


def installed(folder: Path) -> Path:
    """The Python of an environment with edgeprune in it, made where it is not there."""
    python = folder / "bin" / "python"
    if not (folder / "made").exists():
        venv.create(folder, with_pip=True, clear=True)
        subprocess.run([python, "-m", "pip", "install", "--quiet", ROOT], check=True)
        (folder / "made").touch()
    return python


def size(python: Path) -> dict[str, Any]:
    """Bytes of every package."""
    told = subprocess.run([python, "-c", SIZES], check=True, capture_output=True, text=True)
    packages = {
        f"{name} {version}": count
        for name, (version, count) in json.loads(told.stdout).items()
        if name not in MADE_BY
    }
    return {"name": "size", "bytes": sum(packages.values()), "packages": packages}


def start(python: Path, times: int) -> dict[str, Any]:
    """CPU seconds of a command and of what loads its model."""
    run = [python, "-m", "edgeprune", "run", BUNDLE, "w001 w002"]
    commands = {"run": run, "load": [python, "-c", LOADS]}
    found: dict[str, list[float]] = {name: [] for name in commands}
    for _ in range(times + 1):
        for name, command in commands.items():
            found[name].append(cpu_seconds(command))
    warm = {name: seconds[1:] for name, seconds in found.items()}
    beyond = [run - load for run, load in zip(warm["run"], warm["load"], strict=True)]
    return {
        "name": "start",
        "processor": processor()["brand_raw"],
        "machine_load": os.getloadavg()[0],
        "beyond_load": beyond,
        **warm,
    }


def cpu_seconds(command: list[Any]) -> float:
    """User and system time of a program and what it started."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(command, check=True, capture_output=True, env=SURROUNDINGS, cwd="/")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def table(results: Mapping[str, dict[str, Any]]) -> str:
    """The page's table."""
    sizes = sorted(results["size"]["packages"].items(), key=lambda entry: -entry[1])
    large = [(name, count) for name, count in sizes if count >= 5e6]
    rest = results["size"]["bytes"] - sum(count for _, count in large)
    rows = [*large, (f"{len(sizes) - len(large)} more", rest), ("all", results["size"]["bytes"])]
    lines = ["| package | MB |", "|---|---|"]
    lines += [f"| {name} | {count / 1e6:.1f} |" for name, count in rows]
    lines += ["", "| CPU seconds | median | least to most |", "|---|---|---|"]
    names = {"run": "`edgeprune run`", "load": "loading alone", "beyond_load": "the difference"}
    for key, name in names.items():
        found = results["start"][key]
        middle = statistics.median(found)
        lines.append(f"| {name} | {middle:.2f} | {min(found):.2f} to {max(found):.2f} |")
    return "\n".join(lines)


def main() -> None:
    """Measure both."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--folder", type=Path, default=ROOT / "build" / "device-install")
    parser.add_argument("--times", type=int, default=15)
    given = parser.parse_args()
    python = installed(given.folder.resolve())
    for found in (size(python), start(python, given.times)):
        add_result(RESULTS, found)
        print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
