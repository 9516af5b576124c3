"""Single linears timed beside each other in one process, inputs and outputs bound beforehand.

They are called once a round, in an order drawn anew: what a round's neighbours do to caches and
clock, they do to all alike. One thread each, or threads that do not spin.
"""

import random
import time
from collections.abc import Mapping

import numpy as np
import onnxruntime

from edgeprune.kernels.library import register


class Call:
    """A session of an ONNX model's bytes with its input and output bound."""

    def __init__(
        self, model: bytes, x: np.ndarray, outputs: int, threads: int, library: bool
    ) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.log_severity_level = 3
        # Many sessions in one process: threads that spin for work would take it from the next.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        if library:
            register(options)
        self._session = onnxruntime.InferenceSession(model, options)
        self._y = np.empty((len(x), outputs), np.float32)
        self._binding = self._session.io_binding()
        self._binding.bind_cpu_input("x", x)
        self._binding.bind_output("y", "cpu", 0, np.float32, self._y.shape, self._y.ctypes.data)

    def time(self) -> float:
        """Seconds of one run."""
        start = time.perf_counter()
        self._session.run_with_iobinding(self._binding)
        return time.perf_counter() - start


def interleaved(calls: Mapping[str, Call], rounds: int) -> dict[str, list[float]]:
    """Seconds by name; the k-th of each list are of one round."""
    order = list(calls)
    draw = random.Random(0)
    for call in calls.values():
        for _ in range(5):
            call.time()
    times: dict[str, list[float]] = {name: [] for name in order}
    for _ in range(rounds):
        draw.shuffle(order)
        for name in order:
            # What ran before has emptied the caches; a product in a model finds its input there.
            calls[name].time()
            times[name].append(calls[name].time())
    return times
