"""Tiny models emitted, as the passes get them, and the operators that they end in."""

from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

from onnx_models import decoder_folder
from tiny_models import make_batch, make_model

from edgeprune.compress.quantize.model import quantize_model
from edgeprune.compress.quantize.settings import QuantizeSettings
from edgeprune.export.emit.emitted import emitted
from edgeprune.export.emit.reference import padded_prompts, torch_outputs
from edgeprune.export.graph import Graph
from edgeprune.export.rewrite.run import Emitted, rewrite
from edgeprune.model.model import Model
from edgeprune.model.store import save_model
from edgeprune.targets import find

VNNI = replace(find("x86-avx512-vnni"), name="unmeasured")
BATCH = make_batch(rows=2)
FEED = {name: value.numpy() for name, value in BATCH.items()}


def operators(graph: Graph) -> Counter[str]:
    return Counter(node.op_type for node in graph.nodes)


def emission(model: Model, folder) -> Emitted:
    save_model(model, folder)
    graph = emitted(folder, plain_sums=True)
    assert graph is not None
    prompts = padded_prompts([FEED])
    return Emitted(graph, torch_outputs(model, [FEED, *prompts]), prompts)


def operators_folder(folder: Path, **config: Any) -> Path:
    """A tiny Llama by the operator library beside `decoder_folder`'s tokenizer, whose words are the
    first of its 131 tokens; no token ends a text. `config` adds to its settings."""
    usual = {"max_position_embeddings": 96, "eos_token_id": 131}
    decoder_folder(folder, **(usual | config))
    model = make_model("llama-fused", folder / "hf", layers=2)
    quantized = quantize_model(model, [BATCH], QuantizeSettings(operators=True), VNNI)
    source = emission(model, folder / "stage")
    reports = rewrite(source, folder / "model.onnx", model.anatomy, quantized, [FEED], VNNI)
    assert all(report.kept for report in reports), [each for each in reports if not each.kept]
    return folder
