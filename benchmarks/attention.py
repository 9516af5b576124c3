"""Time one layer's attention in every form that the runtime has, beside the one that we write.

    python benchmarks/attention.py [--rounds 300] [--only encoder:12x32:128] [--table]

Encoders: the standard operators (laid out), ONNX's own Attention (opset 23) and the runtime's
MultiHeadAttention, on a padded text, whose mask is made once for all layers and is not timed.
Decoders: the runtime's GroupQueryAttention with its cache written in place, in float32 and in
8 bits, and Attention with a cache that grows by a copy, for a step and for a prompt. All forms of
a row must give the same result before they are timed; each is timed once a round, in an order
drawn at random, and a ratio is the median over rounds of the first form's time over this one's,
with its 95 % bootstrap interval. A row is a line of JSON in benchmarks/results/attention.jsonl
under its name, runtime and processor, and is not run again.
"""

import argparse
import random
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
from onnx import helper, numpy_helper
from results_file import add_result, ratio_text, read_results

from edgeprune.measure.bench.machine import machine_facts
from edgeprune.measure.bench.stats import median, paired_ratio

RESULTS = Path(__file__).parent / "results" / "attention.jsonl"
CONTRIB = "com.microsoft"
MASKED = float(np.finfo(np.float32).min)
ENCODERS = ("12x32:16", "12x32:128", "12x32:512", "12x64:16", "12x64:128", "12x64:512")
DECODERS = ("9/3x64:1:128", "9/3x64:1:1024", "32/8x64:1:512", "32/8x64:1:4096")
PROMPTS = ("9/3x64:128:0", "9/3x64:512:0", "32/8x64:512:0")
LONGEST = 8192

Build = Callable[[], tuple[onnx.ModelProto, dict[str, np.ndarray], dict[str, np.ndarray]]]
"""Model, inputs, and buffers by output name, to which outputs are bound."""


def main() -> None:
    """Run what is not there yet, then print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=300)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--only", action="append", default=[], help="such as encoder:12x32:128")
    parser.add_argument("--table", action="store_true", help="print what is there, run nothing")
    given = parser.parse_args()
    done = read_results(RESULTS)
    machine = machine_facts().to_json()
    where = f"{machine['processor']}, onnxruntime {onnxruntime.__version__}"
    rows = [f"encoder:{row}" for row in ENCODERS]
    rows += [f"decoder:{row}" for row in (*DECODERS, *PROMPTS)]
    for row in () if given.table else rows:
        name = f"{row} | {where} | {given.threads} threads"
        if name not in done and (not given.only or row in given.only):
            kind, _, shape = row.partition(":")
            forms = (encoder_forms if kind == "encoder" else decoder_forms)(shape)
            result = timed(forms, given.rounds, given.threads)
            done[name] = {"name": name, "row": row, "where": where, "forms": result}
            add_result(RESULTS, done[name])
    print(table(done))


class Call:
    """A session with everything bound."""

    def __init__(
        self,
        model: onnx.ModelProto,
        inputs: Mapping[str, np.ndarray],
        buffers: Mapping[str, np.ndarray],
        threads: int,
    ) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.log_severity_level = 3
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        self._session = onnxruntime.InferenceSession(model.SerializeToString(), options)
        self._binding = self._session.io_binding()
        self._kept = [onnxruntime.OrtValue.ortvalue_from_numpy(v) for v in inputs.values()]
        values = dict(zip(inputs, self._kept, strict=True))
        for name, value in values.items():
            self._binding.bind_ortvalue_input(name, value)
        for output in self._session.get_outputs():
            past = output.name.replace("present", "past")
            if output.name in buffers and past in values:
                self._binding.bind_ortvalue_output(output.name, values[past])
            else:
                self._binding.bind_output(output.name, "cpu")

    def result(self) -> np.ndarray:
        """The attention's output after one run."""
        self._session.run_with_iobinding(self._binding)
        return self._binding.get_outputs()[0].numpy()

    def time(self) -> float:
        """Seconds of one run."""
        start = time.perf_counter()
        self._session.run_with_iobinding(self._binding)
        return time.perf_counter() - start


def timed(forms: Mapping[str, Build], rounds: int, threads: int) -> dict[str, Any]:
    """Median microseconds of each form, and the ratio of the first one's time to it."""
    calls = {name: Call(*build(), threads) for name, build in forms.items()}
    first, *others = calls
    reference = calls[first].result()
    size = float(np.linalg.norm(reference))
    drifts = {}
    for name in others:
        drifts[name] = float(np.linalg.norm(calls[name].result() - reference)) / size
        if drifts[name] > (0.1 if "bits" in name else 1e-4):
            raise SystemExit(f"{name} differs from {first} by {drifts[name]:.2g}.")
    times: dict[str, list[float]] = {name: [] for name in calls}
    order, draw = list(calls), random.Random(0)
    for _ in range(rounds + 5):
        draw.shuffle(order)
        for name in order:
            calls[name].time()
            times[name].append(calls[name].time())
    result = {}
    for name, found in times.items():
        ratio = paired_ratio(times[first][5:], found[5:])
        result[name] = {
            "microseconds": round(median(found[5:]) * 1e6, 1),
            "ratio": {"value": ratio.value, "low": ratio.low, "high": ratio.high},
            "drift": drifts.get(name, 0.0),
        }
    return result


def encoder_forms(shape: str) -> dict[str, Build]:
    """The forms of heads x head size : tokens, one text whose last quarter is padding."""
    sizes, tokens = shape.split(":")
    heads, width = map(int, sizes.split("x"))
    rng = np.random.default_rng(0)
    length = int(tokens)
    given = {n: random_values(rng, 1, length, heads * width) for n in ("query", "key", "value")}
    allowed = np.ones((1, 1, length, length), bool)
    allowed[..., length - length // 4 :] = False
    bias = np.where(allowed, np.float32(0), np.float32(MASKED))

    def laid_out() -> tuple[onnx.ModelProto, dict[str, np.ndarray], dict[str, np.ndarray]]:
        constants = {
            "split": np.array([0, 0, heads, width]),
            "join": np.array([0, 0, heads * width]),
            "scale": np.float32(width**-0.5),
        }
        nodes = []
        for name, perm in (("query", [0, 2, 1, 3]), ("key", [0, 2, 3, 1]), ("value", [0, 2, 1, 3])):
            nodes.append(helper.make_node("Reshape", [name, "split"], [f"{name}_split"]))
            nodes.append(
                helper.make_node("Transpose", [f"{name}_split"], [f"{name}_heads"], perm=perm)
            )
        nodes += [
            helper.make_node("MatMul", ["query_heads", "key_heads"], ["scores"]),
            helper.make_node("Mul", ["scores", "scale"], ["scaled"]),
            helper.make_node("Add", ["scaled", "bias"], ["masked"]),
            helper.make_node("Softmax", ["masked"], ["weights"], axis=-1),
            helper.make_node("MatMul", ["weights", "value_heads"], ["context"]),
            helper.make_node("Transpose", ["context"], ["tokens_first"], perm=[0, 2, 1, 3]),
            helper.make_node("Reshape", ["tokens_first", "join"], ["y"]),
        ]
        inputs = {**given, "bias": bias[:, :, :1]}
        return model_of(nodes, constants, inputs, ["y"], 17), inputs, {}

    def standard(mask: np.ndarray) -> Build:
        def build() -> tuple[onnx.ModelProto, dict[str, np.ndarray], dict[str, np.ndarray]]:
            fields = ["query", "key", "value", "mask"]
            counts = {"q_num_heads": heads, "kv_num_heads": heads}
            node = helper.make_node("Attention", fields, ["y"], **counts)
            inputs = {**given, "mask": mask}
            return model_of([node], {}, inputs, ["y"], 23), inputs, {}

        return build

    def fused() -> tuple[onnx.ModelProto, dict[str, np.ndarray], dict[str, np.ndarray]]:
        fields = ["query", "key", "value", "", "", "bias"]
        node = helper.make_node(
            "MultiHeadAttention", fields, ["y"], num_heads=heads, domain=CONTRIB
        )
        inputs = {**given, "bias": bias}
        return model_of([node], {}, inputs, ["y"], 17), inputs, {}

    return {
        "laid out": laid_out,
        "Attention-23, a mask of truths": standard(allowed),
        "Attention-23, a mask to add": standard(bias),
        "MultiHeadAttention": fused,
    }


def decoder_forms(shape: str) -> dict[str, Build]:
    """The forms of query heads / key-value heads x head size : new tokens : tokens before."""
    sizes, new, before = shape.split(":")
    heads, kv, width = map(int, sizes.replace("/", "x").split("x"))
    tokens, past = int(new), int(before)
    total = tokens + past
    rng = np.random.default_rng(0)
    given = {
        "query": random_values(rng, 1, tokens, heads * width),
        "key": random_values(rng, 1, tokens, kv * width),
        "value": random_values(rng, 1, tokens, kv * width),
    }
    caches = {f"past_{n}": random_values(rng, 1, kv, past, width) for n in ("key", "value")}
    angles = np.arange(LONGEST)[:, None] / 10000.0 ** (np.arange(0, width, 2) / width)
    tables = {"cos": np.cos(angles).astype(np.float32), "sin": np.sin(angles).astype(np.float32)}
    outputs = ["y", "present_key", "present_value"]

    def grouped(bits: int = 32) -> Build:
        def build() -> tuple[onnx.ModelProto, dict[str, np.ndarray], dict[str, np.ndarray]]:
            scales = {
                f"{n}_scale": np.full((kv, 1, width), 4.0 / 127, np.float32)
                for n in ("key", "value")
            }
            room = {}
            for name, values in caches.items():
                whole = np.zeros((1, kv, total, width), np.float32)
                whole[:, :, :past] = values
                scale = scales[f"{name[5:]}_scale"]
                codes = np.clip(np.rint(whole / scale), -128, 127).astype(np.int8)
                room[name] = codes if bits == 8 else whole
            inputs = {
                **given,
                **room,
                "last": np.array([total - 1], np.int32),
                "total": np.array([total], np.int32),
            }
            fields = ["query", "key", "value", "past_key", "past_value", "last", "total"]
            fields += ["cos", "sin"]
            attributes: dict[str, Any] = {}
            if bits == 8:
                fields += ["", "", "", "key_scale", "value_scale"]
                attributes = {
                    "k_quant_type": "PER_CHANNEL",
                    "v_quant_type": "PER_CHANNEL",
                    "kv_cache_bit_width": 8,
                }
            node = helper.make_node(
                "GroupQueryAttention",
                fields,
                outputs,
                num_heads=heads,
                kv_num_heads=kv,
                do_rotary=1,
                domain=CONTRIB,
                **attributes,
            )
            constants = {**tables, **(scales if bits == 8 else {})}
            model = model_of([node], constants, inputs, outputs, 17, caches=room)
            return model, inputs, {n: room[n.replace("present", "past")] for n in outputs[1:]}

        return build

    def standard() -> tuple[onnx.ModelProto, dict[str, np.ndarray], dict[str, np.ndarray]]:
        inputs = {**given, **caches, "positions": np.arange(past, total)[None]}
        nodes = [
            helper.make_node(
                "RotaryEmbedding",
                [name, "positions", "cos", "sin"],
                [f"{name}_turned"],
                num_heads=count,
                domain=CONTRIB,
            )
            for name, count in (("query", heads), ("key", kv))
        ]
        nodes.append(
            helper.make_node(
                "Attention",
                ["query_turned", "key_turned", "value", "", "past_key", "past_value"],
                outputs,
                q_num_heads=heads,
                kv_num_heads=kv,
                is_causal=1,
            )
        )
        return model_of(nodes, tables, inputs, outputs, 23, caches=caches), inputs, {}

    return {
        "GroupQueryAttention": grouped(),
        "Attention-23": standard,
        "GroupQueryAttention, cache of 8 bits": grouped(8),
    }


def random_values(rng: np.random.Generator, *shape: int) -> np.ndarray:
    """Standard normal values in float32."""
    return rng.standard_normal(shape).astype(np.float32)


def model_of(
    nodes: list[onnx.NodeProto],
    constants: Mapping[str, Any],
    inputs: Mapping[str, np.ndarray],
    outputs: list[str],
    opset: int,
    caches: Mapping[str, np.ndarray] | None = None,
) -> onnx.ModelProto:
    """A model; what is present has its cache's type."""
    kinds = {f"present{n[4:]}": values.dtype for n, values in (caches or {}).items()}
    graph = helper.make_graph(
        nodes,
        "attention",
        [
            helper.make_tensor_value_info(
                name, helper.np_dtype_to_tensor_dtype(values.dtype), values.shape
            )
            for name, values in inputs.items()
        ],
        [
            helper.make_tensor_value_info(
                name, helper.np_dtype_to_tensor_dtype(np.dtype(kinds.get(name, np.float32))), None
            )
            for name in outputs
        ],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
    )
    opsets = [helper.make_opsetid("", opset), helper.make_opsetid(CONTRIB, 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=10)


def table(done: Mapping[str, Any]) -> str:
    """A line a row: microseconds of the first form, and how many times as fast the others are."""
    lines = []
    for row in done.values():
        first, *others = row["forms"]
        lines += [
            f"{row['row']} ({row['name'].partition(' | ')[2]})",
            f"    {first}: {row['forms'][first]['microseconds']:.0f} us",
        ]
        lines += [
            f"    {name}: {row['forms'][name]['microseconds']:.0f} us, "
            f"{ratio_text(row['forms'][name]['ratio'])}"
            for name in others
        ]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
