"""DeepSparse as a peer: an encoder's ONNX file of one fixed shape, quantized for it.

It reads operator sets up to 13 and products quantized as QLinearMatMul (a file with quantize and
dequantize nodes runs in float32), with activations of fixed ranges: ONNX Runtime's static quantizer
makes that, calibrated on random tokens. Good for timing, and no statement on quality. Texts that
are asked for must have the file's shape.
"""

import argparse
from pathlib import Path
from typing import Any

import numpy as np
from common import converted, onnx_file, read_config, weight_files

from edgeprune.measure.bench.protocol import serve, stay_on, timed

_CALIBRATION_TEXTS = 16


class DeepSparse:
    """The compiled model, and one method a command."""

    def __init__(self, path: Path, vocabulary: int) -> None:
        self.path, self.vocabulary = path, vocabulary

    def load(self, request: dict[str, Any]) -> dict[str, Any]:
        stay_on(request["cores"])
        import deepsparse  # after pinning: it counts the cores that it may use

        def load() -> None:
            self.engine = deepsparse.Engine(
                str(self.path), batch_size=1, num_cores=request["threads"]
            )

        self.random = np.random.default_rng(request["seed"])
        return timed(load)

    def encoder(self, request: dict[str, Any]) -> dict[str, Any]:
        ids = self.random.integers(0, self.vocabulary, (request["batch"], request["tokens"]))
        feeds = list(feeds_of(self.engine.input_names, ids).values())
        return timed(lambda: self.engine.run(feeds), request["calls"])


def feeds_of(names: list[str], ids: np.ndarray) -> dict[str, np.ndarray]:
    """Token ids, an attention to all of them, one segment; in the order of the names."""
    known = {"input_ids": ids, "attention_mask": np.ones_like(ids)}
    return {name: known.get(name, np.zeros_like(ids)) for name in names}


def quantize(source: Path, folder: Path) -> None:
    """INT8 weights per channel and unsigned activations, written as operators."""
    import onnx
    from onnxruntime.quantization import (
        CalibrationDataReader,
        QuantFormat,
        QuantType,
        quantize_static,
    )

    graph = onnx.load(source).graph
    shapes = {i.name: [d.dim_value for d in i.type.tensor_type.shape.dim] for i in graph.input}
    vocabulary = read_config(source.parent.parent)["vocab_size"]
    random = np.random.default_rng(0)

    class RandomTexts(CalibrationDataReader):
        def __init__(self) -> None:
            self.left = _CALIBRATION_TEXTS

        def get_next(self) -> dict[str, np.ndarray] | None:
            self.left -= 1
            if self.left < 0:
                return None
            return feeds_of(list(shapes), random.integers(0, vocabulary, shapes["input_ids"]))

    quantize_static(
        source,
        folder / "model.onnx",
        RandomTexts(),
        quant_format=QuantFormat.QOperator,
        op_types_to_quantize=["MatMul"],
        per_channel=True,
        activation_type=QuantType.QUInt8,
        weight_type=QuantType.QInt8,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    given = parser.parse_args()
    from importlib.metadata import version

    name = f"DeepSparse {version('deepsparse')}, QLinearMatMul INT8"
    folder = converted(onnx_file(given.folder), name, quantize)
    runner = DeepSparse(folder / "model.onnx", read_config(given.folder)["vocab_size"])
    commands = {"load": runner.load, "encoder": runner.encoder}
    serve(name, commands, files=weight_files(folder))


if __name__ == "__main__":
    main()
