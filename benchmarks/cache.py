"""Measure a decoder's key-value cache in 8 and 4 bits beside the float cache, by context length.

    python benchmarks/cache.py BUNDLE --text FILE [--seconds 60] [--only 8:1024] [--table]

BUNDLE is a decoder's with fused attention and a float cache, such as build/decoder/bundle. Its
scales are taken on the first windows of the text; nothing else is changed. A row is one width at
one context: prompts of that length and steps after it, interleaved with the float cache in
processes of their own by edgeprune.measure.bench. It is a line of JSON in
benchmarks/results/cache.jsonl and is not run again, so that an interrupted run goes on.
"""

import argparse
import json
import shutil
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from results_file import add_result, ratio_text, read_results

from edgeprune.export.graph import Graph
from edgeprune.export.rewrite.quantized_cache import cache_bytes, quantize_cache
from edgeprune.measure.bench.compare import compare
from edgeprune.measure.bench.settings import BenchSettings
from edgeprune.runtime.bundle import Bundle
from edgeprune.runtime.cache import Decoder
from edgeprune.runtime.logits import kl_divergence
from edgeprune.runtime.session import open_session
from edgeprune.runtime.tokenize import Tokenizer

RESULTS = Path(__file__).parent / "results" / "cache.jsonl"
WIDTHS = (8, 4)
CONTEXTS = (256, 512, 1024, 2048, 4096)
WINDOW, CALIBRATION = 512, 8
PROMPT, STEPS = 256, 256


def main() -> None:
    """Run what is not there yet, then print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--text", type=Path, help="the text of scales and of the divergence")
    parser.add_argument("--work", type=Path, default=Path("build") / "cache")
    parser.add_argument("--seconds", type=float, default=60.0, help="a row's rounds at most")
    parser.add_argument("--rounds", type=int, default=5, help="a row's rounds at least")
    parser.add_argument("--only", action="append", default=[], help="WIDTH:CONTEXT")
    parser.add_argument("--table", action="store_true", help="print what is there, run nothing")
    given = parser.parse_args()
    done = read_results(RESULTS)
    for bits, context in () if given.table else product(WIDTHS, CONTEXTS):
        name = f"{bits}:{context}"
        if name in done or (given.only and name not in given.only):
            continue
        folder = given.work / f"{bits}-bits"
        if not (folder / "facts.json").exists():
            build(given.bundle, folder, bits, given.text)
        settings = BenchSettings(
            tokens=context,
            decode_steps=32,
            min_rounds=given.rounds,
            time_limit=given.seconds,
            tune_baseline=False,
        )
        speed = compare(folder, given.bundle, settings).to_json()
        for side in ("candidate", "baseline"):
            speed[side].pop("name", None)  # where it lies on this machine
        facts = json.loads((folder / "facts.json").read_text())
        done[name] = {"name": name, "bits": bits, "context": context, **facts, "speed": speed}
        add_result(RESULTS, done[name])
    print(table(done))


def build(bundle: Path, folder: Path, bits: int, text: Path) -> None:
    """Write the bundle with a cache of `bits`, and the divergence of its steps from the float's."""
    shutil.rmtree(folder, ignore_errors=True)
    source = Bundle.open(bundle)
    ids = np.array(Tokenizer(source).ids(text.read_text(encoding="utf-8")[:400_000]))
    windows = ids[: CALIBRATION * WINDOW].reshape(CALIBRATION, WINDOW)
    batches = [
        {"input_ids": row[None], "attention_mask": np.ones_like(row[None])} for row in windows
    ]
    graph = Graph.load(source.model_path)
    whole = cache_bytes(graph)
    quantize_cache(graph, batches, bits)
    shutil.copytree(bundle, folder, ignore=shutil.ignore_patterns("onnx", "edgeprune.json"))
    graph.save(folder / "onnx" / "model.onnx")
    start = CALIBRATION * WINDOW
    held = ids[start : start + PROMPT + STEPS]
    candidate, reference = (decode(Bundle.open(place), held) for place in (folder, bundle))
    facts = {
        "bytes_per_token": cache_bytes(graph),
        "float_bytes_per_token": whole,
        "kl_nats_over_256_steps": float(kl_divergence(reference, candidate).mean()),
        "same_top_token": float((reference.argmax(1) == candidate.argmax(1)).mean()),
    }
    (folder / "facts.json").write_text(json.dumps(facts))


def decode(bundle: Bundle, ids: np.ndarray) -> np.ndarray:
    """Logits of every step after the prompt [STEPS, vocabulary], fed the text's own tokens."""
    decoding = Decoder(open_session(bundle.model_path, 1), bundle.config).start()
    decoding.feed(ids[:PROMPT], last_only=True)
    return np.concatenate([decoding.feed([token], last_only=True)[0] for token in ids[PROMPT:]])


def table(done: dict[str, Any]) -> str:
    """The rows as Markdown: how many times the float cache's speed, with 95 % intervals."""
    lines = [
        "| bits | context | prompts | steps | ms of a step | cache MB | peak MB | KL, 256 steps |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in done.values():
        speed, ratios = row["speed"], []
        for work in ("prompt", "decode"):
            ratio = speed["measures"][work]["ratio"]
            ratios.append(ratio_text(ratio))
        sides = ("baseline", "candidate")
        step = [speed["measures"]["decode"][side]["median_ms"] for side in sides]
        cache = [row[key] * row["context"] / 1e6 for key in FIGURES]
        peak = [speed[side]["peak_memory_bytes"] / 1e6 for side in sides]
        lines.append(
            f"| {row['bits']} | {row['context']} | {' | '.join(ratios)} "
            f"| {step[0]:.1f} to {step[1]:.1f} | {cache[0]:.1f} to {cache[1]:.1f} "
            f"| {peak[0]:.0f} to {peak[1]:.0f} | {row['kl_nats_over_256_steps']:.4f} |"
        )
    return "\n".join(lines)


FIGURES = ("float_bytes_per_token", "bytes_per_token")

if __name__ == "__main__":
    main()
