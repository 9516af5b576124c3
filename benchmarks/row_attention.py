"""Time RowAttention against ONNX Runtime's own attention.

    python benchmarks/row_attention.py [--rounds 60] [--table]

A decoder's layers (9 heads of 64 over 3, as SmolLM2-135M's) against GroupQueryAttention with its
cache of float32 in place: a step and five tokens at once after 150 to 4,096 tokens, and prompts. An
encoder's (12 heads of 32, 128 tokens, the last quarter padding) against MultiHeadAttention. Every
layer has a cache of its own, 30 of them in turn, so that what a layer reads is as cold as in a
model. The results are compared before they are timed. Times are of the calling thread's processor,
one thread, because wall time counts the machine's other work; the order is drawn anew each round,
and a ratio is the median over rounds of the runtime's time over the operator's, with its 95 %
bootstrap interval. A cell is a line of JSON in benchmarks/results/row_attention.jsonl and is not
run again.
"""

import argparse
import os
import random
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
from attention import CONTRIB, MASKED, model_of, random_values
from onnx import helper
from results_file import add_result, ratio_text, read_results

from edgeprune import kernels
from edgeprune.kernels.attention import make_row_attention
from edgeprune.kernels.formats import DOMAIN
from edgeprune.kernels.library import system_facts
from edgeprune.measure.bench.machine import machine_facts
from edgeprune.measure.bench.stats import median, paired_ratio

RESULTS = Path(__file__).parent / "results" / "row_attention.jsonl"
LAYERS = 30
HEADS, KV_HEADS, SIZE = 9, 3, 64
DECODERS = {
    "a step after 150 tokens": (1, 150),
    "a step after 1,024": (1, 1024),
    "a step after 4,096": (1, 4096),
    "five tokens after 1,024": (5, 1024),
    "a prompt of 128": (128, 0),
    "a prompt of 512": (512, 0),
}
ENCODERS = {"an encoder's text of 128": 1, "eight texts of 128": 8}
CACHES = {"float32": np.float32, "float16": np.float16, "int8": np.int8}
# How far a result may be from the runtime's, by the norm; a cache's own rounding included.
FARTHEST = {"float32": 1e-5, "float16": 1e-3, "int8": 3e-2}

Built = tuple[onnx.ModelProto, dict[str, np.ndarray], dict[str, np.ndarray]]
"""A model, its inputs, and the cache that is written in place."""


def main() -> None:
    """Run what is not there yet, a line a cell."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=60)
    parser.add_argument("--table", action="store_true", help="print what is there, run nothing")
    given = parser.parse_args()
    done = read_results(RESULTS)
    for name in () if given.table else (*DECODERS, *ENCODERS):
        if name not in done:
            done[name] = cell(name, given.rounds)
            add_result(RESULTS, done[name])
            print(name, done[name]["microseconds"], flush=True)
    print(table(done))


def cell(name: str, rounds: int) -> dict[str, Any]:
    """Microseconds of a layer in each form, and the runtime's time over each of ours."""
    builds = decoder(*DECODERS[name]) if name in DECODERS else encoder(ENCODERS[name])
    calls = {form: Layers(*built) for form, built in builds.items()}
    rival, *ours = calls
    reference = calls[rival].result()
    for form in ours:
        drift = np.linalg.norm(calls[form].result() - reference) / np.linalg.norm(reference)
        if drift > FARTHEST[form]:
            raise SystemExit(f"{name}: {form} differs from {rival} by {drift:.2g}.")
    times: dict[str, list[float]] = {form: [] for form in calls}
    order, draw = list(calls), random.Random(0)
    for turn in range(rounds + 3):
        draw.shuffle(order)
        for form in order:
            start = time.thread_time_ns()
            calls[form].run()
            if turn >= 3:
                times[form].append((time.thread_time_ns() - start) / 1e9 / LAYERS)
    return {
        "name": name,
        "rival": rival,
        "rounds": rounds,
        "load": os.getloadavg()[0],
        "machine": machine_facts().to_json(),
        "onnxruntime": onnxruntime.__version__,
        "instruction_set": system_facts()["chosen"],
        "microseconds": {form: round(median(found) * 1e6, 1) for form, found in times.items()},
        "ratios": {form: paired_ratio(times[rival], times[form]).model_dump() for form in ours},
    }


class Layers:
    """A session, and the inputs of LAYERS layers, each with a cache of its own."""

    def __init__(
        self, model: onnx.ModelProto, inputs: dict[str, np.ndarray], cache: dict[str, np.ndarray]
    ) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        options.log_severity_level = 3
        kernels.register(options)
        model.opset_import.append(helper.make_opsetid(DOMAIN, 1))
        self._session = onnxruntime.InferenceSession(model.SerializeToString(), options)
        values = [onnxruntime.OrtValue.ortvalue_from_numpy(value) for value in inputs.values()]
        self._kept = list(values)
        self._bindings = []
        for _ in range(LAYERS):
            binding = self._session.io_binding()
            for name, value in zip(inputs, values, strict=True):
                binding.bind_ortvalue_input(name, value)
            for name, value in cache.items():
                own = onnxruntime.OrtValue.ortvalue_from_numpy(value.copy())
                self._kept.append(own)
                binding.bind_ortvalue_input(name, own)
                binding.bind_ortvalue_output(name.replace("past", "present"), own)
            binding.bind_output("y")
            self._bindings.append(binding)

    def run(self) -> None:
        for binding in self._bindings:
            self._session.run_with_iobinding(binding)

    def result(self) -> np.ndarray:
        self.run()
        result: np.ndarray = self._bindings[0].get_outputs()[-1].numpy()
        return result


def decoder(new: int, past: int) -> dict[str, Built]:
    """The runtime's operator, then ours over each type of cache."""
    rng, total = np.random.default_rng(0), new + past
    angles = np.arange(total)[:, None] / 10000.0 ** (np.arange(0, SIZE, 2) / SIZE)
    constants = {"cos": np.cos(angles).astype(np.float32), "sin": np.sin(angles).astype(np.float32)}
    inputs = {
        "query": random_values(rng, 1, new, HEADS * SIZE),
        "key": random_values(rng, 1, new, KV_HEADS * SIZE),
        "value": random_values(rng, 1, new, KV_HEADS * SIZE),
        "last": np.array([total - 1], np.int32),
        "total": np.array([total], np.int32),
    }
    room = [random_values(rng, 1, KV_HEADS, total, SIZE) for _ in range(2)]
    counts = {"num_heads": HEADS, "kv_num_heads": KV_HEADS}
    pasts, presents = ([f"{name}_{i}" for i in range(4)] for name in ("past", "present"))
    fields = ["query", "key", "value", *pasts[:2], "last", "total", "cos", "sin"]
    outputs = ["y", *presents[:2]]
    rival = helper.make_node(
        "GroupQueryAttention", fields, outputs, domain=CONTRIB, do_rotary=1, **counts
    )
    builds = {"GroupQueryAttention": built(rival, constants, inputs, room)}
    for cache in CACHES:
        held = stored(room, cache)
        node = make_row_attention(
            "attention",
            "query",
            "y",
            key="key",
            value="value",
            past=pasts[: len(held)],
            present=presents[: len(held)],
            lengths=("last", "total"),
            rotary=("cos", "sin"),
            cache=cache,
            **counts,
        )
        builds[cache] = built(node, constants, inputs, held)
    return builds


def stored(room: list[np.ndarray], cache: str) -> list[np.ndarray]:
    """Keys and values in a cache's type, and their scales."""
    if cache != "int8":
        return [values.astype(CACHES[cache]) for values in room]
    scales = [np.abs(values).max(-1) / np.float32(127) for values in room]
    codes = [
        np.rint(values / scale[..., None]).astype(np.int8)
        for values, scale in zip(room, scales, strict=True)
    ]
    return [*codes, *scales]


def built(
    node: onnx.NodeProto,
    constants: Mapping[str, np.ndarray],
    inputs: dict[str, np.ndarray],
    room: list[np.ndarray],
) -> Built:
    """The model of one node."""
    cache = {f"past_{place}": values for place, values in enumerate(room)}
    outputs = list(node.output)
    model = model_of([node], constants, {**inputs, **cache}, outputs, 17, caches=cache)
    return model, inputs, cache


def encoder(batch: int) -> dict[str, Built]:
    """The runtime's operator and ours."""
    heads, size, tokens = 12, 32, 128
    rng = np.random.default_rng(0)
    rows = ("query", "key", "value")
    inputs = {name: random_values(rng, batch, tokens, heads * size) for name in rows}
    padding = np.zeros((batch, 1, 1, tokens), np.float32)
    padding[..., tokens - tokens // 4 :] = MASKED
    every = np.ascontiguousarray(np.broadcast_to(padding, (batch, 1, tokens, tokens)))
    rival = helper.make_node(
        "MultiHeadAttention", [*rows, "", "", "bias"], ["y"], domain=CONTRIB, num_heads=heads
    )
    node = make_row_attention(
        "attention",
        "query",
        "y",
        key="key",
        value="value",
        bias="bias",
        num_heads=heads,
        kv_num_heads=heads,
        causal=False,
    )
    return {
        "MultiHeadAttention": built(rival, {}, {**inputs, "bias": every}, []),
        "float32": built(node, {}, {**inputs, "bias": padding}, []),
    }


def table(done: Mapping[str, Any]) -> str:
    """A row a cell: the runtime's time, and the ratio of each of ours with its interval."""
    lines = [
        "| a layer | the runtime's | float32 | float16 cache | int8 cache |",
        "|---|---|---|---|---|",
    ]
    for name, found in done.items():
        ratios = [
            ratio_text(found["ratios"][cache]) if cache in found["ratios"] else "-"
            for cache in CACHES
        ]
        rival = f"{found['rival']}, {found['microseconds'][found['rival']]:.0f} us"
        lines.append(f"| {name} | {rival} | {' | '.join(ratios)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
