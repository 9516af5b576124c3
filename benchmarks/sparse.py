"""What sparsity gains on this machine, cell by cell, beside every peer.

    python benchmarks/sparse.py [--only WORDS]... [--list] [--table]
    python benchmarks/sparse.py --trained OUTPUT [--cut OUTPUT]

One line of JSON a cell in benchmarks/results/sparse.jsonl; a cell that is there is not run again,
so an interrupted run goes on. Ratios are of interleaved calls, medians with 95 % intervals. Cells:

- one linear beside the runtime's dense INT8 or INT4 (sparse_linear.py), random weights;
- MiniLM with 4x16 blocks of every linear emptied by magnitude and nothing trained (speed alone),
  beside the original, ONNX Runtime's own INT8, OpenVINO's, and DeepSparse at the same sparsity;
- the same file without the operator library beside the dense INT8 bundle;
- a linear under QEMU on a processor without AVX-512 and VNNI: instructions, not times;
- `--trained`: what a build of encoder-sparse reached, beside its original and (`--cut`) a build
  that is only cut; with EDGEPRUNE_DATA set, also their STS-B.

Peers need their environments: `python benchmarks/peers/setup.py onnxruntime`, `openvino` and
`deepsparse`. A cell whose peer is missing is left for the next run.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from built import build_once
from contestants import is_missing, peer_command
from results_file import add_result, ratio_text, read_results

from edgeprune.kernels.library import system_facts
from edgeprune.measure.bench.compare import compare
from edgeprune.measure.bench.machine import machine_facts
from edgeprune.measure.bench.settings import BenchSettings
from edgeprune.measure.bench.stats import median, paired_ratio
from edgeprune.measure.bench.subject import SLOW_FUSIONS
from edgeprune.measure.evaluate.measures import evaluate

HERE = Path(__file__).parent
ROOT = HERE.parent
RESULTS = HERE / "results" / "sparse.jsonl"
WORK = ROOT / "build" / "sparse"
STS = "pairs/stsb.dev.jsonl"
# Before AVX-512 and VNNI: sums of two products saturate in 16 bits, and weights have 7 bits.
OLD_PROCESSOR = "Haswell"
# Two processes differ by tens of millions of instructions before their first call.
_FEW_CALLS, _MANY_CALLS = 1, 201
_PROCESSES, _ROUNDS = 9, 60
THREADS = {1: ", 1 thread", 2: ", 2 threads"}
_UNFUSED = [part for name in SLOW_FUSIONS for part in ("--without", name)]


@dataclass(frozen=True)
class Cell:
    """One line of the table."""

    name: str
    reach: float | None
    """The ratio that it should reach, where one was set."""
    run: Callable[[], dict[str, Any]]
    """Returns at least "ratio", {"value", "low", "high"}: how many times faster."""
    peer: str | None = None


def cells() -> Iterator[Cell]:
    """Every cell but those of trained builds, in the order in which they run."""
    for threads in THREADS:
        told = THREADS[threads]
        for share, reach in ((50, 1.25), (80, 3.0), (90, 5.0)):
            name = f"linear 384x1536, 128 rows, 4x16 {share} % / dense int8{told}"
            yield Cell(name, reach, linear("384x1536", 128, share, "dense int8", threads))
        for share, reach in ((70, 1.5), (80, 2.4)):
            name = f"linear 2048x8192, 1 row, 4x16 {share} % / dense int4{told}"
            yield Cell(name, reach, linear("2048x8192", 1, share, "dense int4", threads))
    name = f"linear 384x1536, 128 rows, 4x16 80 % / dense int8, {OLD_PROCESSOR}, instructions"
    yield Cell(name, 1.5, lambda: emulated("384x1536", 128, 80))
    for threads in THREADS:
        told = THREADS[threads]
        for share, reach in ((80, 5.3), (90, 6.0)):
            name = f"MiniLM 4x16 {share} % / "
            for rival, peer in RIVALS.items():
                wanted = {"original": reach, "DeepSparse, 4x1 blocks": 1.0}.get(rival)
                run = minilm(f"4x16-{share}", rival, share, threads)
                yield Cell(f"{name}{rival}{told}", wanted, run, peer)
        for share in (80, 90):
            name = f"MiniLM 4x16 {share} % without the library / dense int8{told}"
            yield Cell(name, 0.95, without_library(f"4x16-{share}", threads))


# What the model is beside -> the environment that it needs.
RIVALS: dict[str, str | None] = {
    "original": None,
    "dense int8": None,
    "ONNX Runtime INT8": "onnxruntime",
    "OpenVINO INT8": "openvino",
    "DeepSparse, 4x1 blocks": "deepsparse",
}


def main() -> None:
    """Run what is not there yet, then print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", action="append", help="words that a cell's name must hold")
    parser.add_argument("--list", action="store_true", help="name the cells, run nothing")
    parser.add_argument("--table", action="store_true", help="print what is there, run nothing")
    parser.add_argument("--trained", type=Path, help="the output folder of a sparse build")
    parser.add_argument("--cut", type=Path, help="the output folder of a build that is only cut")
    given = parser.parse_args()
    done = read_results(RESULTS)
    wanted = list(trained(given.trained, given.cut) if given.trained else cells())
    wanted = [c for c in wanted if all(words in c.name for words in given.only or ())]
    if given.list:
        print("\n".join(cell.name for cell in wanted))
        return
    for cell in [] if given.table else wanted:
        if cell.name in done:
            continue
        if cell.peer and is_missing(cell.peer):
            print(f"Left out, for want of build/peers/{cell.peer}: {cell.name}", file=sys.stderr)
            continue
        print(cell.name, file=sys.stderr, flush=True)
        facts = {"machine": machine_facts().to_json(), "instruction_set": system_facts()["chosen"]}
        done[cell.name] = {"name": cell.name, "reach": cell.reach, **facts, **cell.run()}
        add_result(RESULTS, done[cell.name])
    print(table(done))


# Linears -----------------------------------------------------------------------------------------


def linear(
    shape: str, rows: int, share: int, baseline: str, threads: int
) -> Callable[[], dict[str, Any]]:
    """One linear beside the runtime's own: a pair of medians for each of several processes.

    How a process' memory lies in the caches moves a linear by up to a fifth, whatever the rounds.
    """

    def run() -> dict[str, Any]:
        command = [sys.executable, str(HERE / "sparse_linear.py"), "--shape", shape, "--json", "-"]
        command += ["--rows", str(rows), "--threads", str(threads), "--formats", "int8-4x16"]
        command += ["--sparsity", str(share / 100), "--rounds", str(_ROUNDS)]
        pairs = []
        for _ in range(_PROCESSES):
            found = json.loads(_output(command))["contestants"]
            names = (baseline, f"int8-4x16 {share}%")
            pairs.append([found[name]["microseconds"] for name in names])
        ratio = paired_ratio(*zip(*pairs, strict=True))
        return {
            "ratio": {"value": ratio.value, "low": ratio.low, "high": ratio.high},
            "microseconds": [median(times) for times in zip(*pairs, strict=True)],
            "processes": _PROCESSES,
        }

    return run


def emulated(shape: str, rows: int, share: int) -> dict[str, Any]:
    """Instructions of one call on an older processor, dense over sparse; they have no interval."""
    counts = {
        name: _instructions(name, shape, rows) for name in ("dense int8", f"int8-4x16 {share}%")
    }
    dense, sparse = counts.values()
    return {
        "instructions": counts,
        "ratio": dict.fromkeys(("value", "low", "high"), dense / sparse),
    }


def _instructions(contestant: str, shape: str, rows: int) -> float:
    """By two processes that differ in the number of calls, as benchmarks/qemu/count.py does."""
    sys.path.insert(0, str(HERE / "qemu"))
    from setup import PLUGIN, make_plugin

    if not PLUGIN.exists():
        PLUGIN.parent.mkdir(parents=True, exist_ok=True)
        make_plugin()
    found = []
    for calls in (_FEW_CALLS, _MANY_CALLS):
        with tempfile.TemporaryDirectory() as scratch:
            log = Path(scratch) / "log"
            # Addresses and hashes decide what Python executes.
            command = ["setarch", "--addr-no-randomize", "qemu-x86_64", "-cpu", OLD_PROCESSOR]
            command += ["-plugin", str(PLUGIN), "-d", "plugin", "-D", str(log)]
            command += ["-E", "PYTHONHASHSEED=0", "-E", "ORT_DISABLE_TELEMETRY=1"]
            command += [os.path.realpath(sys.executable), str(HERE / "sparse_linear.py")]
            command += ["--shape", shape, "--rows", str(rows), "--call", contestant, str(calls)]
            _output(command, PYTHONPATH=os.pathsep.join(sys.path))
            found.append(float(log.read_text().split()[-1]))
    return (found[1] - found[0]) / (_MANY_CALLS - _FEW_CALLS)


# Models ------------------------------------------------------------------------------------------


def minilm(name: str, rival: str, share: int, threads: int) -> Callable[[], dict[str, Any]]:
    """MiniLM with empty blocks beside a rival."""

    def run() -> dict[str, Any]:
        output = built(name)
        script = {
            "ONNX Runtime INT8": ("onnxruntime", "run_onnxruntime.py", *_UNFUSED),
            "OpenVINO INT8": ("openvino", "run_openvino.py"),
        }
        if rival in script:
            peer, file, *options = script[rival]
            baseline = peer_command(peer, file, output / "original", "--int8", *options)
        elif rival.startswith("DeepSparse"):
            baseline = peer_command("deepsparse", "run_deepsparse.py", static_export(share))
        else:
            baseline = str(
                output / "original" if rival == "original" else built("dense") / "bundle"
            )
        return beside(output / "bundle", baseline, threads)

    return run


def without_library(name: str, threads: int) -> Callable[[], dict[str, Any]]:
    """The sparse file in ONNX Runtime alone, beside the dense file."""
    return lambda: beside(f"stock:{built(name) / 'bundle'}", built("dense") / "bundle", threads)


def beside(candidate: str | Path, baseline: str | Path, threads: int) -> dict[str, Any]:
    """Both interleaved, with instructions and cycles where the machine counts them."""
    settings = BenchSettings(threads=threads, time_limit=20.0, counters=threads == 1)
    result = compare(candidate, baseline, settings).to_json()
    return {"ratio": result["measures"]["encoder"]["ratio"], "bench": result}


def built(name: str) -> Path:
    """The output folder of MiniLM in INT8, "dense" or with blocks emptied ("4x16-80")."""
    overrides = []
    if name != "dense":
        pattern, share = name.split("-")
        settings = f"{{method: magnitude, pattern: {pattern}, sparsity: {int(share) / 100}}}"
        overrides = [f"prune={settings}"]
    return build_once("encoder-int8", WORK / name, overrides)


def static_export(share: int) -> Path:
    """MiniLM with 4x1 blocks emptied, as DeepSparse reads it: float32, opset 13, one shape."""
    folder = WORK / f"deepsparse-{share}"
    if not (folder / "config.json").exists():
        import torch

        from edgeprune.model.store import load_model

        [pruned] = (built(f"4x1-{share}") / "stages").glob("prune-*")
        model = load_model(pruned, "eager")
        (folder / "onnx").mkdir(parents=True, exist_ok=True)
        ids = torch.ones((1, BenchSettings().tokens), dtype=torch.long)
        torch.onnx.export(
            model.module,
            (ids, ids, torch.zeros_like(ids)),
            str(folder / "onnx" / "model.onnx"),
            input_names=["input_ids", "attention_mask", "token_type_ids"],
            output_names=["last_hidden_state"],
            opset_version=13,
            dynamo=False,
        )
        (folder / "config.json").write_text(json.dumps(model.config))
    return folder


def trained(sparse: Path, cut: Path | None) -> Iterator[Cell]:
    """What builds with training reached."""
    name = f"{sparse.name}, trained / "
    yield Cell(f"{name}original", 8.0, lambda: _with_sts(sparse, sparse / "original"))
    if cut:
        yield Cell(f"{name}{cut.name}", 1.0, lambda: _with_sts(sparse, cut / "bundle"))


def _with_sts(output: Path, baseline: Path) -> dict[str, Any]:
    result = beside(output / "bundle", baseline, 1)
    if data := os.environ.get("EDGEPRUNE_DATA"):
        found = evaluate(output / "bundle", "sts", Path(data) / STS, None, baseline)
        result["sts"] = found.to_json()
    return result


# Results -----------------------------------------------------------------------------------------


def _output(command: list[str], **environment: str) -> str:
    return subprocess.run(
        command, check=True, capture_output=True, text=True, env={**os.environ, **environment}
    ).stdout


def table(done: dict[str, Any]) -> str:
    """The cells as Markdown."""
    lines = ["| cell | times faster (95 % interval) | to reach |", "|---|---|---|"]
    for result in done.values():
        reach = f"{result['reach']:g}x" if result["reach"] else ""
        lines.append(f"| {result['name']} | {ratio_text(result['ratio'])} | {reach} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
