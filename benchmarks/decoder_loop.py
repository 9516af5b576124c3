"""Measure what the loop of text generation takes beside the session, for each token.

    python benchmarks/decoder_loop.py [--steps 400] [--layers 30] [--vocabulary 49152] [--add]

The model is tiny and has the cache's tensors of SmolLM2-135M: two a layer, shared buffers, fused
attention. Times are of this thread's processor, from one token to the next, less those of the
session's own call, which runs on one thread; so another process's load does not count. Medians and
quartiles; --add keeps them in benchmarks/results/decoder_loop.jsonl.
"""

import argparse
import json
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper
from results_file import add_result
from tokenizers import Tokenizer, models, pre_tokenizers

from edgeprune import runtime
from edgeprune.runtime.names import FUSED_ATTENTION, PAST, PRESENT, SHARED_CACHE
from edgeprune.runtime.sampling import Sampling

RESULTS = Path(__file__).parent / "results" / "decoder_loop.jsonl"
HEADS, SIZE = 2, 32
PROMPT = 16
LOOPS: dict[str, dict[str, Any]] = {
    "greedy": {},
    "temperature": {"temperature": 0.8},
    "temperature, top_k 50, top_p 0.9": {"temperature": 0.8, "top_k": 50, "top_p": 0.9},
    "temperature, top_p 0.9": {"temperature": 0.8, "top_p": 0.9},
    "greedy, repetition and frequency": {"repetition_penalty": 1.1, "frequency_penalty": 0.2},
}


def main() -> None:
    """Measure every loop, and print a row each."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--layers", type=int, default=30)
    parser.add_argument("--vocabulary", type=int, default=49_152)
    parser.add_argument("--add", action="store_true", help="keep the results")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        write_model(Path(folder), given.layers, given.vocabulary)
        model = runtime.load(folder, threads=1)
    model.decoder.session = session = TimedSession(model.session)
    print(
        f"| loop, {2 * given.layers} tensors, {given.vocabulary:,} tokens | µs a token | session |"
    )
    print("|---|---|---|")
    for name, settings in LOOPS.items():
        around, inside = spent(model, session, settings, given.steps)
        low, median, high = np.percentile(around, [25, 50, 75])
        print(f"| {name} | {median:.0f} ({low:.0f} to {high:.0f}) | {np.median(inside):.0f} |")
        result = {
            "name": f"{name}:{given.layers}:{given.vocabulary}",
            "onnxruntime": onnxruntime.__version__,
            "microseconds": round(float(median), 1),
            "quartiles": [round(float(low), 1), round(float(high), 1)],
        }
        if given.add:
            add_result(RESULTS, result)


class TimedSession:
    """A session that sums the thread's time in its runs."""

    def __init__(self, session: onnxruntime.InferenceSession) -> None:
        self._session, self.spent = session, 0

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._session, name)
        if not name.startswith("run"):
            return found

        def timed(*args: Any) -> Any:
            start = time.thread_time_ns()
            result = found(*args)
            self.spent += time.thread_time_ns() - start
            return result

        return timed


def spent(
    model: Any, session: TimedSession, settings: dict[str, Any], steps: int
) -> tuple[list[float], list[float]]:
    """Microseconds of each step outside of the session, and in it; the first few are left out."""
    around, inside = [], []
    start, before = time.thread_time_ns(), session.spent
    for _ in model.generate_ids([5] * PROMPT, Sampling(max_tokens=steps, seed=1, **settings)):
        now = time.thread_time_ns()
        own = session.spent - before
        around.append((now - start - own) / 1000)
        inside.append(own / 1000)
        start, before = time.thread_time_ns(), session.spent
    return around[10:], inside[10:]


def write_model(folder: Path, layers: int, vocabulary: int) -> None:
    """A decoder whose layers have no weights: h += attention(h), and logits = h @ head."""
    whole = helper.make_tensor_value_info
    random = np.random.default_rng(0)
    width = HEADS * SIZE
    weights = {
        "table": random.normal(size=(vocabulary, width)).astype(np.float32),
        "head": random.normal(size=(width, vocabulary)).astype(np.float32),
        "one": np.array([1]),
    }
    nodes = [
        helper.make_node("Gather", ["table", "input_ids"], ["h0"]),
        helper.make_node("ReduceSum", ["attention_mask", "one"], ["count"], keepdims=0),
        helper.make_node("Sub", ["count", "one"], ["last"]),
        helper.make_node("Cast", ["last"], ["seqlens"], to=TensorProto.INT32),
        helper.make_node("Shape", ["attention_mask"], ["total8"], start=1),
        helper.make_node("Squeeze", ["total8"], ["total1"]),
        helper.make_node("Cast", ["total1"], ["total"], to=TensorProto.INT32),
    ]
    inputs = [
        whole("input_ids", TensorProto.INT64, ["b", "t"]),
        whole("attention_mask", TensorProto.INT64, ["b", "all"]),
    ]
    outputs = [whole("logits", TensorProto.FLOAT, ["b", "t", vocabulary])]
    for layer in range(layers):
        h = f"h{layer}"
        nodes.append(helper.make_node("Split", [h], [f"{h}k", f"{h}v"], axis=-1, num_outputs=2))
        past = [f"{PAST}{layer}.{part}" for part in ("key", "value")]
        present = [f"{PRESENT}{layer}.{part}" for part in ("key", "value")]
        attention = helper.make_node(
            FUSED_ATTENTION,
            [h, f"{h}k", f"{h}v", *past, "seqlens", "total"],
            [f"{h}a", *present],
            domain="com.microsoft",
            num_heads=HEADS,
            kv_num_heads=1,
        )
        nodes += [attention, helper.make_node("Add", [h, f"{h}a"], [f"h{layer + 1}"])]
        cache = TensorProto.FLOAT, ["b", 1, "past", SIZE]
        inputs += [whole(name, *cache) for name in past]
        outputs += [whole(name, *cache) for name in present]
    nodes.append(helper.make_node("MatMul", [f"h{layers}", "head"], ["logits"]))
    tensors = [numpy_helper.from_array(value, name) for name, value in weights.items()]
    graph = helper.make_graph(nodes, "loop", inputs, outputs, tensors)
    opsets = [helper.make_opsetid("", 18), helper.make_opsetid("com.microsoft", 1)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=9)
    helper.set_model_props(model, {SHARED_CACHE: "yes"})
    onnx.save(model, folder / "model.onnx")
    ids = {f"w{token}": token for token in range(vocabulary)}
    tokenizer = Tokenizer(models.WordLevel(ids, unk_token="w0"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.save(str(folder / "tokenizer.json"))
    config = {"architectures": ["XForCausalLM"], "vocab_size": vocabulary}
    # No token ends the text before its last step.
    config |= {"max_position_embeddings": 100_000, "eos_token_id": vocabulary}
    (folder / "config.json").write_text(json.dumps(config))


if __name__ == "__main__":
    main()
