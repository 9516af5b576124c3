"""The file by which onnxruntime-genai runs a decoder: genai_config.json beside its tokenizer.

It names the graph's inputs and outputs, and the sizes of the cache, which that client lays out
itself: one size for all layers, keys and values in floats.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from onnx import TensorProto

from edgeprune.base.files import read_object
from edgeprune.export.graph import Graph
from edgeprune.model.settings import hidden_size, max_positions, num_heads
from edgeprune.runtime.names import PAST, PAST_CONVOLVED, PRESENT, SHARED_CACHE

FILE = "genai_config.json"
_INPUTS = ("input_ids", "attention_mask", "position_ids")


def write_genai_config(folder: Path, graph_file: Path, place: str) -> bool:
    """Write genai_config.json into a model's folder, beside its config.json.

    Args:
        graph_file: the decoder's graph.
        place: the graph's path in the folder, as it will lie there.

    Returns:
        Whether it was written: not for graphs without a cache, or with one that the client cannot
        lay out.
    """
    graph = Graph.load(graph_file)
    cache = list(graph.input_shapes(PAST))
    sizes = {(kind, shape[1], shape[-1]) for _, kind, shape in cache}
    convolved = any(name.startswith(PAST_CONVOLVED) for name in graph.inputs)
    if len(sizes) != 1 or convolved:
        return False
    [(kind, heads, head_dim)] = sizes
    if kind != TensorProto.FLOAT:
        return False
    config = read_object(folder / "config.json")
    asked = {**config, **read_object(folder / "generation_config.json")}
    layers = len(cache) // 2
    inputs = {name: name for name in _INPUTS if name in graph.inputs}
    tokens = {
        key: asked[key]
        for key in ("bos_token_id", "eos_token_id", "pad_token_id")
        if asked.get(key) is not None
    }
    content = {
        "model": {
            "type": "decoder",
            **_with_padding(tokens),
            "context_length": max_positions(config),
            "vocab_size": config["vocab_size"],
            "decoder": {
                "session_options": {"log_id": "onnxruntime-genai", "provider_options": []},
                "filename": place,
                "head_size": head_dim,
                "hidden_size": hidden_size(config),
                "num_attention_heads": num_heads(config),
                "num_key_value_heads": heads,
                "num_hidden_layers": layers,
                "inputs": {
                    **inputs,
                    "past_key_names": f"{PAST}%d.key",
                    "past_value_names": f"{PAST}%d.value",
                },
                "outputs": {
                    "logits": "logits",
                    "present_key_names": f"{PRESENT}%d.key",
                    "present_value_names": f"{PRESENT}%d.value",
                },
            },
        },
        "search": {
            "do_sample": False,
            "max_length": max_positions(config),
            "past_present_share_buffer": SHARED_CACHE in graph.metadata,
        },
    }
    (folder / FILE).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    return True


def _with_padding(tokens: Mapping[str, Any]) -> dict[str, Any]:
    """The special tokens; what pads is an end where the model names none, as the client wants
    one."""
    end = tokens.get("eos_token_id")
    first = end[0] if isinstance(end, list) else end
    return {"pad_token_id": first, **tokens} if first is not None else dict(tokens)
