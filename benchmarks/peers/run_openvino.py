"""OpenVINO as a peer: an encoder's ONNX file in float32, or quantized by NNCF.

Shapes stay dynamic, as a text's length demands. NNCF calibrates on random tokens: good for timing,
and no statement on quality.
"""

import argparse
from pathlib import Path
from typing import Any

import numpy as np
from common import converted, onnx_file, read_config, weight_files

from edgeprune.bench.protocol import serve, stay_on, timed

_CALIBRATION_TEXTS, _CALIBRATION_TOKENS = 32, 128


class OpenVINO:
    """The compiled model, and one method a command."""

    def __init__(self, model: Path, vocabulary: int) -> None:
        self.model, self.vocabulary = model, vocabulary

    def load(self, request: dict[str, Any]) -> dict[str, Any]:
        stay_on(request["cores"])
        import openvino  # after pinning: its thread pool counts the cores that it may use

        def load() -> None:
            compiled = openvino.Core().compile_model(
                self.model,
                "CPU",
                {
                    "INFERENCE_NUM_THREADS": request["threads"],
                    "PERFORMANCE_HINT": "LATENCY",
                    # float32 stays float32 where the processor would take bfloat16.
                    "INFERENCE_PRECISION_HINT": "f32",
                },
            )
            self.inputs = [node.any_name for node in compiled.inputs]
            self.call = compiled.create_infer_request()

        self.random = np.random.default_rng(request["seed"])
        return timed(load)

    def encoder(self, request: dict[str, Any]) -> dict[str, Any]:
        shape = (request["batch"], request["tokens"])
        feeds = feeds_of(self.inputs, self.random.integers(0, self.vocabulary, shape))
        return timed(lambda: self.call.infer(feeds, share_inputs=True), request["calls"])


def feeds_of(inputs: list[str], ids: np.ndarray) -> dict[str, np.ndarray]:
    known = {"input_ids": ids, "attention_mask": np.ones_like(ids)}
    return {name: known.get(name, np.zeros_like(ids)) for name in inputs}


def convert(source: Path, folder: Path) -> None:
    """ONNX to OpenVINO's own format, in float32."""
    import openvino

    openvino.save_model(
        openvino.convert_model(source), folder / "model.xml", compress_to_fp16=False
    )


def quantize(source: Path, folder: Path) -> None:
    """The same in INT8, by NNCF's settings for transformers."""
    import nncf
    import openvino

    model = openvino.convert_model(source)
    inputs = [node.any_name for node in model.inputs]
    vocabulary = read_config(source.parent.parent)["vocab_size"]
    random = np.random.default_rng(0)
    texts = [
        feeds_of(inputs, random.integers(0, vocabulary, (1, _CALIBRATION_TOKENS)))
        for _ in range(_CALIBRATION_TEXTS)
    ]
    quantized = nncf.quantize(
        model, nncf.Dataset(texts), model_type=nncf.ModelType.TRANSFORMER, subset_size=len(texts)
    )
    openvino.save_model(quantized, folder / "model.xml", compress_to_fp16=False)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--int8", action="store_true")
    given = parser.parse_args()
    from importlib.metadata import version

    name = f"OpenVINO {version('openvino')}"
    if given.int8:
        name += f", NNCF {version('nncf')} INT8"
    make = quantize if given.int8 else convert
    folder = converted(onnx_file(given.folder), name, make)
    runner = OpenVINO(folder / "model.xml", read_config(given.folder)["vocab_size"])
    commands = {"load": runner.load, "encoder": runner.encoder}
    serve(name, commands, files=weight_files(folder))


if __name__ == "__main__":
    main()
