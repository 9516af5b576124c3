"""ONNX Runtime as a peer: a plain export, or what its own quantize_dynamic makes of it."""

import argparse
from pathlib import Path

import numpy as np
import onnxruntime
from common import add_embed_option, converted, onnx_file, read_config, write_embeddings

from edgeprune.measure.bench.protocol import serve
from edgeprune.measure.bench.worker import Worker
from edgeprune.runtime.session import input_types, open_session, token_inputs


def quantize(source: Path, folder: Path) -> None:
    """INT8 by the library's defaults, which dynamic quantization's documentation shows."""
    from onnxruntime.quantization import quantize_dynamic

    quantize_dynamic(source, folder / "model.onnx")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--int8", action="store_true")
    parser.add_argument("--without", metavar="FUSION", action="append", default=[])
    add_embed_option(parser)
    given = parser.parse_args()
    path = onnx_file(given.folder)
    config = read_config(given.folder)
    version = f"ONNX Runtime {onnxruntime.__version__}"
    if given.int8:
        path = converted(path, f"{version} quantize_dynamic", quantize) / "model.onnx"
    if given.embed:
        session = open_session(path, 1, given.without)
        types = input_types(session)

        def hidden(ids: np.ndarray) -> np.ndarray:
            feeds = token_inputs(types, ids, np.ones_like(ids))
            return session.run(["last_hidden_state"], feeds)[0]

        write_embeddings(given.embed, hidden)
        return
    worker = Worker()
    known = {
        "model": str(path),
        "vocabulary": config["vocab_size"],
        "config": config,
        "disabled_optimizers": given.without,
    }
    commands = {"load": lambda request: worker.load(request | known), "profile": worker.profile}
    inputs = {node.name for node in onnxruntime.InferenceSession(path).get_inputs()}
    if any(name.startswith("past_key_values.") for name in inputs):
        commands |= {"prompt": worker.prompt, "decode": worker.decode}
    else:
        commands |= {"encoder": worker.encoder}
    name = f"{version}{', quantize_dynamic' if given.int8 else ''}"
    name += f", without {' and '.join(given.without)}" if given.without else ""
    serve(name, commands, files=[str(file) for file in path.parent.glob("model.onnx*")])


if __name__ == "__main__":
    main()
