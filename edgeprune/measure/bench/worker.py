"""A process that runs one ONNX file: `python -m edgeprune.measure.bench.worker`.

It speaks the protocol of protocol.py. Its load is also told:

    "model": path, "vocabulary": 30522, "config": {...} (the sizes of a decoder's cache),
    "disabled_optimizers": [], "profile": false, "stock": true (to leave the operator library out)

Its peak memory is measured, so it imports nothing but numpy, onnxruntime and a few files of ours.
"""

import json
import os
import re
import tempfile
from typing import Any

import numpy as np
import onnxruntime

from edgeprune.measure.bench.protocol import Message, serve, stay_on, timed
from edgeprune.runtime.cache import Decoder
from edgeprune.runtime.session import input_types, open_session, token_inputs


class Worker:
    """The loaded model, and one method a command."""

    def load(self, request: Message) -> Message:
        stay_on(request["cores"])
        prefix = None
        if request["profile"]:
            self._profiles = tempfile.TemporaryDirectory(prefix="edgeprune-")
            prefix = os.path.join(self._profiles.name, "profile")

        def load() -> None:
            self.session = open_session(
                request["model"],
                request["threads"],
                request["disabled_optimizers"],
                profile_prefix=prefix,
                stock=request.get("stock", False),
            )

        seconds = timed(load)
        self.config = request["config"]
        self.vocabulary = request["vocabulary"]
        self.random = np.random.default_rng(request["seed"])
        return seconds

    def encoder(self, request: Message) -> Message:
        ids = self._ids(request["batch"], request["tokens"])
        feeds = token_inputs(input_types(self.session), ids, np.ones_like(ids))
        return timed(lambda: self.session.run(None, feeds), request["calls"])

    def prompt(self, request: Message) -> Message:
        decoder = Decoder(self.session, self.config)
        ids = self._ids(request["batch"], request["tokens"])

        def call() -> None:
            decoder.start(request["batch"]).feed(ids, last_only=True)[:, -1].argmax(axis=-1)

        return timed(call, request["calls"])

    def decode(self, request: Message) -> Message:
        decoder = Decoder(self.session, self.config)
        if not decoder.has_cache:
            raise ValueError("the decoder has no key-value cache, so decoding cannot be timed")
        decoding = decoder.start(request["batch"])
        # The cache holds what a prompt left there: its values decide how dynamic quantization and
        # denormal numbers behave.
        decoding.feed(self._ids(request["batch"], request["context"]), last_only=True)
        ids = iter(self._ids(request["batch"], request["steps"] + 1).T)
        decoding.feed(next(ids), last_only=True)
        return timed(lambda: decoding.feed(next(ids), last_only=True), request["steps"])

    def profile(self, request: Message) -> Message:
        """The runtime's own times by operator, a run; of the last `runs` runs. Ends profiling."""
        with self._profiles, open(self.session.end_profiling(), encoding="utf-8") as file:
            return by_operator(json.load(file), request["runs"])

    def _ids(self, batch: int, tokens: int) -> np.ndarray:
        return self.random.integers(0, self.vocabulary, (batch, tokens))


_LAYER = re.compile(r"\.(\d+)/")


def by_operator(events: list[dict[str, Any]], runs: int) -> Message:
    """Sums of ONNX Runtime's profile (Chrome's trace format) over its last `runs` runs.

    Returns:
        "run_ms", the milliseconds of one run; "operators": for each type of operator the "ms" and
        the "count" of its calls in one run; and "layers": the ms of one run by the number of the
        layer in the operator's name ("/encoder/layer.3/output/Add"), of the others under "". What
        a run takes beyond its operators is the runtime's own.
    """
    whole = [event for event in events if event["name"] == "model_run"][-runs:]
    operators: dict[str, dict[str, float]] = {}
    layers: dict[str, float] = {}
    for event in events:
        # A Loop's or an If's time is that of the operators inside, which are listed as well.
        name = event["args"].get("op_name")
        if event["cat"] != "Node" or name in ("If", "Loop", "Scan"):
            continue
        if event["name"].endswith("_kernel_time") and event["ts"] >= whole[0]["ts"]:
            sums = operators.setdefault(name, {"ms": 0.0, "count": 0})
            sums["ms"] += event["dur"] / 1000 / len(whole)
            sums["count"] += 1 / len(whole)
            layer = _LAYER.search(event["name"])
            place = layer[1] if layer else ""
            layers[place] = layers.get(place, 0.0) + event["dur"] / 1000 / len(whole)
    run_ms = sum(event["dur"] for event in whole) / 1000 / len(whole)
    return {"run_ms": run_ms, "operators": operators, "layers": layers}


def main() -> None:
    worker = Worker()
    commands = {
        "load": worker.load,
        "encoder": worker.encoder,
        "prompt": worker.prompt,
        "decode": worker.decode,
        "profile": worker.profile,
    }
    serve(f"ONNX Runtime {onnxruntime.__version__}", commands)


if __name__ == "__main__":
    main()
