"""llama.cpp as a peer, through llama-cpp-python: a decoder's GGUF file.

Formats differ in speed, and not every one has a kernel for prompts: Q4_0 has and Q4_1 has not. So
--quantize writes the file anew in another format; from a file that is 4-bit already this is good
for timing, and no statement on quality.
"""

import argparse
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from common import add_nats_option, converted, one_sequence, write_nats

from edgeprune.measure.bench.protocol import serve, stay_on, timed

# Tokens of a prompt that go through the model at once.
_BATCH = 512


class LlamaCpp:
    """The loaded model, and one method a command."""

    def __init__(self, path: Path, context: int, all_logits: bool) -> None:
        self.path, self.context, self.all_logits = path, context, all_logits

    def load(self, request: dict[str, Any]) -> dict[str, Any]:
        import llama_cpp

        stay_on(request["cores"])

        def load() -> None:
            self.model = llama_cpp.Llama(
                str(self.path),
                n_ctx=self.context,
                n_batch=_BATCH,
                n_threads=request["threads"],
                n_threads_batch=request["threads"],
                logits_all=self.all_logits,
                verbose=False,
            )

        self.random = np.random.default_rng(request["seed"])
        return timed(load)

    def prompt(self, request: dict[str, Any]) -> dict[str, Any]:
        one_sequence(request)
        ids = self._ids(request["tokens"])

        def call() -> None:
            self.model.reset()
            self.model.eval(ids)
            self.model.sample(temp=0.0)

        return timed(call, request["calls"])

    def decode(self, request: dict[str, Any]) -> dict[str, Any]:
        one_sequence(request)
        self.model.reset()
        self.model.eval(self._ids(request["context"]))
        ids = iter(self._ids(request["steps"] + 1))
        self.model.eval([next(ids)])
        return timed(lambda: self.model.eval([next(ids)]), request["steps"])

    def logits(self, ids: np.ndarray) -> np.ndarray:
        self.model.reset()
        self.model.eval(ids.tolist())
        return self.model.scores[: len(ids)]

    def _ids(self, tokens: int) -> list[int]:
        return self.random.integers(0, self.model.n_vocab(), tokens).tolist()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("file", type=Path)
    parser.add_argument("--quantize", choices=("q4_0", "q8_0"))
    parser.add_argument(
        "--context",
        type=int,
        default=0,
        help="tokens of cache, which is allocated whole; 0: as many as the model was trained with",
    )
    add_nats_option(parser)
    given = parser.parse_args()

    def quantize(source: Path, folder: Path) -> None:
        import llama_cpp

        settings = llama_cpp.llama_model_quantize_default_params()
        settings.ftype = getattr(llama_cpp, f"LLAMA_FTYPE_MOSTLY_{given.quantize.upper()}")
        settings.allow_requantize = True
        target = str(folder / "model.gguf").encode()
        if llama_cpp.llama_model_quantize(str(source).encode(), target, settings):
            raise ValueError(f"llama.cpp cannot quantize {source}")

    name, path = f"llama.cpp by llama-cpp-python {version('llama-cpp-python')}", given.file
    if given.quantize:
        name += f", {given.quantize}"
        path = converted(path, name, quantize) / "model.gguf"
    runner = LlamaCpp(path, given.context, all_logits=bool(given.nats))
    if given.nats:
        runner.load({"cores": None, "threads": 1, "seed": 0})
        write_nats(given.nats, runner.logits)
        return
    commands = {"load": runner.load, "prompt": runner.prompt, "decode": runner.decode}
    serve(f"{name}; {_build()}", commands, files=[str(path)])


def _build() -> str:
    """The instruction sets that the library was compiled for."""
    import llama_cpp

    told = llama_cpp.llama_print_system_info().decode()
    return told.rpartition("CPU : ")[2].replace(" = 1", "").replace(" | ", " ").strip(" |")


if __name__ == "__main__":
    main()
