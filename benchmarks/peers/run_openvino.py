"""OpenVINO as a peer: an encoder's ONNX file in float32, or quantized by NNCF.

Shapes stay dynamic, as a text's length demands. NNCF calibrates on the texts of --calibration;
without, on random tokens: good for timing, and no statement on quality.
"""

import argparse
import hashlib
import json
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from common import (
    add_embed_option,
    converted,
    onnx_file,
    read_config,
    weight_files,
    write_embeddings,
)

from edgeprune.measure.bench.protocol import serve, stay_on, timed

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

    def hidden(self, ids: np.ndarray) -> np.ndarray:
        return self.call.infer(feeds_of(self.inputs, ids))["last_hidden_state"]


def feeds_of(inputs: list[str], ids: np.ndarray) -> dict[str, np.ndarray]:
    known = {"input_ids": ids, "attention_mask": np.ones_like(ids)}
    return {name: known.get(name, np.zeros_like(ids)) for name in inputs}


def convert(source: Path, folder: Path) -> None:
    """ONNX to OpenVINO's own format, in float32."""
    import openvino

    openvino.save_model(
        openvino.convert_model(source), folder / "model.xml", compress_to_fp16=False
    )


def quantize(source: Path, folder: Path, texts: list[list[int]]) -> None:
    """The same in INT8, by NNCF's settings for transformers, calibrated on texts' token ids."""
    import nncf
    import openvino

    model = openvino.convert_model(source)
    inputs = [node.any_name for node in model.inputs]
    feeds = nncf.Dataset([feeds_of(inputs, np.array([ids])) for ids in texts])
    quantized = nncf.quantize(
        model, feeds, model_type=nncf.ModelType.TRANSFORMER, subset_size=len(texts)
    )
    openvino.save_model(quantized, folder / "model.xml", compress_to_fp16=False)


def random_texts(vocabulary: int) -> list[list[int]]:
    shape = (_CALIBRATION_TEXTS, _CALIBRATION_TOKENS)
    return np.random.default_rng(0).integers(0, vocabulary, shape).tolist()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--int8", action="store_true")
    parser.add_argument("--calibration", type=Path, help="JSON: a list of token ids a text")
    add_embed_option(parser)
    given = parser.parse_args()
    from importlib.metadata import version

    name = f"OpenVINO {version('openvino')}"
    how, make, vocabulary = name, convert, read_config(given.folder)["vocab_size"]
    if given.int8:
        name += f", NNCF {version('nncf')} INT8"
        texts = random_texts(vocabulary)
        if given.calibration:
            texts = json.loads(given.calibration.read_text())
        how = f"{name} calibrated on {hashlib.sha256(json.dumps(texts).encode()).hexdigest()}"
        make = partial(quantize, texts=texts)
    folder = converted(onnx_file(given.folder), how, make)
    runner = OpenVINO(folder / "model.xml", vocabulary)
    if given.embed:
        runner.load({"cores": None, "threads": 1, "seed": 0})
        write_embeddings(given.embed, runner.hidden)
        return
    commands = {"load": runner.load, "encoder": runner.encoder}
    serve(name, commands, files=weight_files(folder))


if __name__ == "__main__":
    main()
