"""CTranslate2 as a peer: an encoder's Hugging Face folder, in float32 or INT8."""

import argparse
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from common import converted, read_config, weight_files

from edgeprune.measure.bench.protocol import serve, stay_on, timed


class CTranslate2:
    """The loaded encoder, and one method a command."""

    def __init__(self, folder: Path, compute_type: str, vocabulary: int) -> None:
        self.folder, self.compute_type, self.vocabulary = folder, compute_type, vocabulary

    def load(self, request: dict[str, Any]) -> dict[str, Any]:
        import ctranslate2

        stay_on(request["cores"])

        def load() -> None:
            self.model = ctranslate2.Encoder(
                str(self.folder),
                device="cpu",
                compute_type=self.compute_type,
                inter_threads=1,
                intra_threads=request["threads"],
            )

        self.random = np.random.default_rng(request["seed"])
        return timed(load)

    def encoder(self, request: dict[str, Any]) -> dict[str, Any]:
        shape = (request["batch"], request["tokens"])
        ids = self.random.integers(0, self.vocabulary, shape).tolist()
        return timed(lambda: self.model.forward_batch(ids), request["calls"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--int8", action="store_true")
    given = parser.parse_args()
    compute_type = "int8" if given.int8 else "float32"

    def convert(source: Path, folder: Path) -> None:
        from ctranslate2.converters import TransformersConverter

        TransformersConverter(str(source)).convert(
            str(folder), quantization=compute_type, force=True
        )

    name = f"CTranslate2 {version('ctranslate2')}, {compute_type}"
    folder = converted(given.folder, name, convert)
    runner = CTranslate2(folder, compute_type, read_config(given.folder)["vocab_size"])
    commands = {"load": runner.load, "encoder": runner.encoder}
    serve(name, commands, files=weight_files(folder))


if __name__ == "__main__":
    main()
