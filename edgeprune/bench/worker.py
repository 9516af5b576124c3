"""A process that loads one ONNX file and times calls of it: `python -m edgeprune.bench.worker`.

It reads one JSON object a line on standard input and answers each with one on standard output:

    {"do": "load", "model": path, "threads": 1, "cores": [1], "vocabulary": 30522, "seed": 0,
     "disabled_optimizers": [], "config": {...}, "profile": false}          -> {"seconds": [s]}
    {"do": "encoder", "batch": 1, "tokens": 128, "calls": 8}                -> {"seconds": [...]}
    {"do": "prompt", "batch": 1, "tokens": 128, "calls": 2}                 -> {"seconds": [...]}
    {"do": "decode", "batch": 1, "context": 128, "steps": 32}               -> {"seconds": [...]}
    {"do": "memory"}                                                        -> {"peak_bytes": n}
    {"do": "profile", "runs": 8}                                            -> {"run_ms": t, ...}
    {"do": "exit"}

A failure is answered with {"error": sentence}. Its peak memory is measured, so it imports nothing
but numpy, onnxruntime and the two files below.
"""

import json
import os
import sys
import tempfile
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from edgeprune.runtime.cache import Decoder
from edgeprune.runtime.session import input_types, open_session, token_inputs


class Worker:
    """The loaded model, and one method a command."""

    def load(self, request: dict[str, Any]) -> dict[str, Any]:
        if request.get("cores") and hasattr(os, "sched_setaffinity"):
            os.sched_setaffinity(0, request["cores"])
        prefix = None
        if request["profile"]:
            self._profiles = tempfile.TemporaryDirectory(prefix="edgeprune-")
            prefix = os.path.join(self._profiles.name, "profile")
        started = time.perf_counter()
        self.session = open_session(
            request["model"],
            request["threads"],
            request["disabled_optimizers"],
            profile_prefix=prefix,
        )
        seconds = time.perf_counter() - started
        self.config = request["config"]
        self.vocabulary = request["vocabulary"]
        self.random = np.random.default_rng(request["seed"])
        return {"seconds": [seconds]}

    def encoder(self, request: dict[str, Any]) -> dict[str, Any]:
        ids = self._ids(request["batch"], request["tokens"])
        feeds = token_inputs(input_types(self.session), ids, np.ones_like(ids))
        return _timed(lambda: self.session.run(None, feeds), request["calls"])

    def prompt(self, request: dict[str, Any]) -> dict[str, Any]:
        """From an empty cache to the first token of the answer."""
        decoder = Decoder(self.session, self.config)
        ids = self._ids(request["batch"], request["tokens"])

        def call() -> None:
            decoder.reset(request["batch"])
            decoder.feed(ids)[:, -1].argmax(axis=-1)

        return _timed(call, request["calls"])

    def decode(self, request: dict[str, Any]) -> dict[str, Any]:
        """Steps of one token after a context of that many; the cache grows as in use."""
        decoder = Decoder(self.session, self.config)
        if not decoder.has_cache:
            raise ValueError("the decoder has no key-value cache, so decoding cannot be timed")
        decoder.reset(request["batch"])
        # The cache holds what a prompt left there: its values decide how dynamic quantization and
        # denormal numbers behave.
        decoder.feed(self._ids(request["batch"], request["context"]))
        ids = iter(self._ids(request["batch"], request["steps"] + 1).T)
        decoder.feed([next(ids)])
        return _timed(lambda: decoder.feed([next(ids)]), request["steps"])

    def memory(self, request: dict[str, Any]) -> dict[str, Any]:
        return {"peak_bytes": peak_bytes()}

    def profile(self, request: dict[str, Any]) -> dict[str, Any]:
        """The runtime's own times by operator, a run; of the last `runs` runs. Ends profiling."""
        with self._profiles, open(self.session.end_profiling(), encoding="utf-8") as file:
            return by_operator(json.load(file), request["runs"])

    def _ids(self, batch: int, tokens: int) -> np.ndarray:
        return self.random.integers(0, self.vocabulary, (batch, tokens))


def peak_bytes() -> int:
    """The most resident memory that this process has had.

    Linux: VmHWM; `ru_maxrss` also counts the parent's memory before exec, there.
    """
    try:
        with open("/proc/self/status", encoding="ascii") as status:
            for line in status:
                if line.startswith("VmHWM:"):
                    return int(line.split()[1]) * 1024
    except OSError:
        pass
    if sys.platform == "win32":
        import psutil

        return psutil.Process().memory_info().peak_wset
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def by_operator(events: list[dict[str, Any]], runs: int) -> dict[str, Any]:
    """Sums of ONNX Runtime's profile (Chrome's trace format) over its last `runs` runs.

    Returns:
        "run_ms", the milliseconds of one run, and "operators": for each type of operator the
        "ms" and the "count" of its calls in one run. What a run takes beyond its operators is
        the runtime's own.
    """
    whole = [event for event in events if event["name"] == "model_run"][-runs:]
    operators: dict[str, dict[str, float]] = {}
    for event in events:
        # A Loop's or an If's time is that of the operators inside, which are listed as well.
        name = event["args"].get("op_name")
        if event["cat"] != "Node" or name in ("If", "Loop", "Scan"):
            continue
        if event["name"].endswith("_kernel_time") and event["ts"] >= whole[0]["ts"]:
            sums = operators.setdefault(name, {"ms": 0.0, "count": 0})
            sums["ms"] += event["dur"] / 1000 / len(whole)
            sums["count"] += 1 / len(whole)
    run_ms = sum(event["dur"] for event in whole) / 1000 / len(whole)
    return {"run_ms": run_ms, "operators": operators}


def main() -> None:
    worker = Worker()
    commands: dict[str, Callable[[dict[str, Any]], dict[str, Any]]] = {
        "load": worker.load,
        "encoder": worker.encoder,
        "prompt": worker.prompt,
        "decode": worker.decode,
        "memory": worker.memory,
        "profile": worker.profile,
    }
    for line in sys.stdin:
        request = json.loads(line)
        if request["do"] == "exit":
            return
        try:
            answer = commands[request["do"]](request)
        except Exception as error:  # whatever it is, the asking process must hear of it
            answer = {"error": (str(error).splitlines() or [type(error).__name__])[0]}
        print(json.dumps(answer), flush=True)


def _timed(call: Callable[[], object], calls: int) -> dict[str, Any]:
    """Seconds of each of `calls` calls."""
    seconds = []
    for _ in range(calls):
        started = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - started)
    return {"seconds": seconds}


if __name__ == "__main__":
    main()
