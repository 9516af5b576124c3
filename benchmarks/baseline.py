"""Rebuild the frozen baseline, and measure what is built today beside it.

    EDGEPRUNE_DATA=<folder> python benchmarks/baseline.py [--against] [--work FOLDER] [--table]

The baseline is what this project built at one commit, in the environment of that commit: its
constraints.txt, with transformers 4.57 and ONNX Runtime 1.31. Whoever says "faster than before"
says it of these bundles, `minilm` and `minilm-fast`, whose successors are the recipes encoder and
encoder-fast. From nothing but this repository and a package index the script checks the commit out,
makes the environment, builds both with their recipes as they stood, and keeps them in --work:

    checkout, environment       of the commit
    minilm, minilm-fast         each with its bundle and the original's plain float32 ONNX
    manifest.json               the commit, the versions, and every file's SHA-256 and bytes

A step that is done is not done again, and files that no longer fit the manifest stop the script.
Then each bundle is measured beside its own original: a row of benchmarks/results/baseline.jsonl.
`--against` builds encoder and encoder-fast with the code as it is, and measures each beside its
predecessor, interleaved in one run. Everything is timed by the present `bench` and the present
ONNX Runtime, so that the rows tell recipes apart and nothing else. The builds take 15 minutes of
one core each.
"""

import argparse
import hashlib
import json
import os
import shutil
import subprocess
import sys
import venv
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from built import build_once, quality_beside, speed_beside
from results_file import add_result, ratio_text, read_results

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results" / "baseline.jsonl"
COMMIT = "5db7618b050bc2643a1c0e5aeac13933658b4fbe"
"""The last one whose recipes were called minilm and minilm-fast, with transformers 4.57."""
RECIPES = {"minilm": "encoder", "minilm-fast": "encoder-fast"}
"""The frozen recipe, and the one that took its place."""
_VERSIONS = ("torch", "transformers", "onnx", "onnxruntime", "tokenizers", "numpy")


def main() -> None:
    """Make what is missing, measure what is missing, then print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--work", type=Path, default=Path("build") / "baseline")
    parser.add_argument("--against", action="store_true", help="also measure today's recipes")
    parser.add_argument("--seconds", type=float, default=60.0, help="a row's timing at most")
    parser.add_argument("--table", action="store_true", help="print what is there, run nothing")
    given = parser.parse_args()
    done = read_results(RESULTS)
    if not given.table:
        data = os.environ.get("EDGEPRUNE_DATA")
        if not data:
            sys.exit("Point EDGEPRUNE_DATA at the folder with the texts (see the README).")
        work = given.work.resolve()
        work.mkdir(parents=True, exist_ok=True)
        manifest = rebuild(work)
        for row in measured(manifest, work, Path(data), given.seconds, given.against, set(done)):
            done[row["name"]] = row
            add_result(RESULTS, row)
    print(table(done))


def rebuild(work: Path) -> dict[str, Any]:
    """The manifest of the frozen bundles, which are built unless they are there.

    Stops the program where a file is no longer the one that was built.
    """
    file = work / "manifest.json"
    if not file.exists():
        python = environment(work)
        for recipe in RECIPES:
            if not (work / recipe / "report.json").exists():
                words = [python, "-m", "edgeprune", "build", recipe, "--output", work / recipe]
                # What this process finds its own code by would hide the commit's.
                clean = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
                subprocess.run(words, check=True, cwd=work / "checkout", env=clean)
        made = {
            "commit": COMMIT,
            "versions": versions(python),
            "files": {recipe: files_of(work / recipe / "bundle") for recipe in RECIPES},
        }
        file.write_text(json.dumps(made, indent=1) + "\n", encoding="utf-8")
    manifest: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    if manifest["commit"] != COMMIT:
        sys.exit(f"{work} holds the baseline of {manifest['commit']}: name another --work.")
    for recipe, files in manifest["files"].items():
        if files_of(work / recipe / "bundle") != files:
            sys.exit(f"{work / recipe} is not what was built: delete it and manifest.json.")
    return manifest


def environment(work: Path) -> Path:
    """The commit's files and an environment of its own with its constraints; its Python."""
    checkout, folder = work / "checkout", work / "environment"
    python = folder / "bin" / "python"
    made = folder / ".made"
    if made.exists():
        return python
    shutil.rmtree(checkout, ignore_errors=True)
    git = ["git", "clone", "--quiet", "--no-checkout", ROOT, checkout]
    subprocess.run(git, check=True)
    subprocess.run(["git", "checkout", "--quiet", "--detach", COMMIT], check=True, cwd=checkout)
    venv.create(folder, with_pip=True, clear=True)
    pip = [python, "-m", "pip", "install", "--quiet", "-c", "constraints.txt"]
    subprocess.run([*pip, "-e", ".[build,demo]"], check=True, cwd=checkout)
    made.touch()
    return python


def versions(python: Path) -> dict[str, str]:
    """The versions that an environment has of what builds."""
    code = "import importlib.metadata, sys; print(*map(importlib.metadata.version, sys.argv[1:]))"
    words = [python, "-c", code, *_VERSIONS]
    told = subprocess.run(words, check=True, capture_output=True, text=True).stdout
    return dict(zip(_VERSIONS, told.split(), strict=True))


def files_of(bundle: Path) -> dict[str, dict[str, Any]]:
    """Each file's bytes and SHA-256, by its place in the bundle."""
    return {
        str(file.relative_to(bundle)): {
            "bytes": file.stat().st_size,
            "sha256": hashlib.sha256(file.read_bytes()).hexdigest(),
        }
        for file in sorted(bundle.rglob("*"))
        if file.is_file()
    }


def measured(
    manifest: dict[str, Any],
    work: Path,
    data: Path,
    seconds: float,
    against: bool,
    done: set[str],
) -> Iterable[dict[str, Any]]:
    """The rows that are not done, each as soon as it is measured."""
    for recipe, present in RECIPES.items():
        if recipe not in done:
            row = beside(
                recipe, work / recipe / "bundle", work / recipe / "original", data, seconds
            )
            built_by = {key: manifest[key] for key in ("commit", "versions")}
            yield {**row, **built_by, "files": manifest["files"][recipe]}
        name = f"{present} beside {recipe}"
        if against and name not in done:
            output = build_once(present, work / "present" / present)
            yield beside(name, output / "bundle", work / recipe / "bundle", data, seconds)


def beside(
    name: str, candidate: Path, baseline: Path, data: Path, seconds: float
) -> dict[str, Any]:
    """A row: speed, and quality with the paired difference, of one model beside another."""
    pairs = data / "pairs" / "stsb.dev.jsonl"
    return {
        "name": name,
        "speed": speed_beside(candidate, baseline, seconds),
        "quality": quality_beside(candidate, baseline, "sts", pairs),
    }


def table(done: dict[str, Any]) -> str:
    """The rows as Markdown."""
    if not done:
        return "No row is recorded yet."
    lines = [
        "| bundle | beside | speed | STS-B dev: that, this, change | MB | built by |",
        "|---|---|---|---|---|---|",
    ]
    for name, row in done.items():
        speed, quality = row["speed"], row["quality"]
        bundle, _, other = name.partition(" beside ")
        [(value, found)] = quality["values"].items()
        low, high = quality["difference_interval"][value]
        change = f"{quality['difference'][value]:+.2f} ({low:+.2f} to {high:+.2f})"
        libraries = row.get("versions", {})
        by = f"{row['commit'][:7]}, transformers {libraries['transformers']}" if libraries else ""
        lines.append(
            f"| `{bundle}` | {f'`{other}`' if other else 'its float32 original'} "
            f"| {ratio_text(speed['measures']['encoder']['ratio'])} "
            f"| {quality['original'][value]:.2f}, {found:.2f}, {change} "
            f"| {speed['candidate']['model_bytes'] / 1e6:.1f} | {by} |"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    main()
