"""ONNX Runtime GenAI as a peer: a decoder's Hugging Face folder, by its own model builder.

INT4 is built in blocks of 32 with INT8 arithmetic (accuracy level 4), the fastest on processors;
INT8 is its float32 graph through the runtime's quantize_dynamic, per output channel.
Its decoding feeds back the token that it chose, so the ids after the prompt are the model's own.
"""

import argparse
import json
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from common import (
    add_nats_option,
    converted,
    one_sequence,
    read_config,
    weight_files,
    write_nats,
)

from edgeprune.measure.bench.protocol import serve, stay_on, timed

_INT4 = ["--extra_options", "int4_accuracy_level=4", "int4_block_size=32"]


class GenAI:
    """The loaded model, and one method a command."""

    def __init__(self, folder: Path, vocabulary: int) -> None:
        self.folder, self.vocabulary = folder, vocabulary

    def load(self, request: dict[str, Any]) -> dict[str, Any]:
        import onnxruntime_genai

        self.library = onnxruntime_genai
        stay_on(request["cores"])

        def load() -> None:
            config = onnxruntime_genai.Config(str(self.folder))
            options = {"session_options": {"intra_op_num_threads": request["threads"]}}
            config.overlay(json.dumps({"model": {"decoder": options}}))
            self.model = onnxruntime_genai.Model(config)

        self.random = np.random.default_rng(request["seed"])
        return timed(load)

    def prompt(self, request: dict[str, Any]) -> dict[str, Any]:
        one_sequence(request)
        ids = self._ids(request["tokens"])
        generator = self._generator(request["tokens"] + 1)

        def call() -> None:
            generator.rewind_to(0)
            generator.append_tokens(ids)
            generator.generate_next_token()

        return timed(call, request["calls"])

    def decode(self, request: dict[str, Any]) -> dict[str, Any]:
        one_sequence(request)
        generator = self._generator(request["context"] + request["steps"] + 3)
        generator.append_tokens(self._ids(request["context"]))
        generator.generate_next_token()  # chosen from the prompt: no step of the model
        generator.generate_next_token()
        return timed(generator.generate_next_token, request["steps"])

    def logits(self, ids: np.ndarray) -> np.ndarray:
        generator = self._generator(len(ids) + 1)
        generator.append_tokens(ids.astype(np.int32))
        return generator.get_output("logits")[0]

    def _generator(self, length: int) -> Any:
        parameters = self.library.GeneratorParams(self.model)
        # As long as asked, whatever ends a sentence.
        parameters.set_search_options(do_sample=False, max_length=length, min_length=length)
        return self.library.Generator(self.model, parameters)

    def _ids(self, tokens: int) -> np.ndarray:
        return self.random.integers(0, self.vocabulary, tokens).astype(np.int32)


def to_int8(folder: Path) -> None:
    """Quantize the graph in a folder and drop its float32 weights."""
    from onnxruntime.quantization import QuantType, quantize_dynamic

    quantized = folder / "int8.onnx"
    quantize_dynamic(
        folder / "model.onnx", quantized, per_channel=True, weight_type=QuantType.QInt8
    )
    for file in folder.glob("model.onnx*"):
        file.unlink()
    quantized.rename(folder / "model.onnx")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--precision", choices=("fp32", "int4", "int8"), default="int4")
    add_nats_option(parser)
    given = parser.parse_args()

    def convert(source: Path, folder: Path) -> None:
        builder = [sys.executable, "-m", "onnxruntime_genai.models.builder"]
        built = "fp32" if given.precision == "int8" else given.precision
        work = ["-i", str(source), "-o", str(folder), "-p", built, "-e", "cpu"]
        cache = ["-c", str(folder / "cache")]
        options = _INT4 if given.precision == "int4" else []
        subprocess.run([*builder, *work, *cache, *options], check=True)
        if given.precision == "int8":
            to_int8(folder)

    name = f"ONNX Runtime GenAI {version('onnxruntime-genai')}, {given.precision}"
    folder = converted(given.folder, name, convert)
    runner = GenAI(folder, read_config(given.folder)["vocab_size"])
    if given.nats:
        runner.load({"cores": None, "threads": 1, "seed": 0})
        write_nats(given.nats, runner.logits)
        return
    commands = {"load": runner.load, "prompt": runner.prompt, "decode": runner.decode}
    files = [file for file in weight_files(folder) if Path(file).name.startswith("model.onnx")]
    serve(name, commands, files=files)


if __name__ == "__main__":
    main()
