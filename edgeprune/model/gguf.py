"""A GGUF file's settings and tensors under Hugging Face's names."""

from pathlib import Path
from typing import Any

from edgeprune.base.errors import UserError
from edgeprune.model.config import check_types
from edgeprune.model.families import gguf_model_types
from edgeprune.model.family import Shape
from edgeprune.model.gguf_header import read_gguf_header

_GGUF_LAYER = {
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}


# What transformers calls the settings that a GGUF file has under its architecture's name.
_GGUF_SETTINGS = {
    "hidden_size": "embedding_length",
    "num_hidden_layers": "block_count",
    "num_attention_heads": "attention.head_count",
    "num_key_value_heads": "attention.head_count_kv",
    "head_dim": "attention.key_length",
    "intermediate_size": "feed_forward_length",
    "max_position_embeddings": "context_length",
}


_GGUF_OPTIONAL = ("num_key_value_heads", "head_dim", "intermediate_size")


_GGUF_ROPE = ("rope.scaling.type", "rope.scaling.factor", "rope.scale_linear")


def read_gguf(file: Path) -> tuple[dict[str, Any], dict[str, Shape]]:
    """Configuration and shapes of a GGUF file, under the names that transformers will give them."""
    header = read_gguf_header(file)
    architecture = str(header.settings.get("general.architecture"))
    if architecture not in gguf_model_types():
        raise UserError(
            f"{file} is a model of type {architecture!r}, which is not read from GGUF here: "
            f"{', '.join(gguf_model_types())} are; give other models as a folder of safetensors."
        )
    stated = {key.removeprefix(f"{architecture}."): v for key, v in header.settings.items()}
    scaled = [key for key in _GGUF_ROPE if stated.get(key) not in (None, "none", 1.0)]
    if "rope_freqs.weight" in header.shapes or scaled:
        raise UserError(
            f"{file} stretches its rotary positions ({[*scaled, 'rope_freqs.weight'][0]}), which "
            "transformers does not read from GGUF: give the model as a folder of safetensors."
        )
    shapes: dict[str, Shape] = {}
    for name, shape in header.shapes.items():
        parts = name.split(".")
        if name == "token_embd.weight":
            shapes["model.embed_tokens.weight"] = shape
        elif name == "output.weight":
            shapes["lm_head.weight"] = shape
        elif parts[0] == "blk" and len(parts) == 4 and parts[2] in _GGUF_LAYER:
            shapes[f"model.layers.{parts[1]}.{_GGUF_LAYER[parts[2]]}.{parts[3]}"] = shape
    settings = {name: stated.get(key) for name, key in _GGUF_SETTINGS.items()}
    for name, value in settings.items():
        key = f"{architecture}.{_GGUF_SETTINGS[name]}"
        if value is None and name not in _GGUF_OPTIONAL:
            raise UserError(f"{file} does not say {key}: convert the model again.")
        if isinstance(value, list):
            raise UserError(
                f"{file} states {key} for each layer, and layers that differ in it "
                "are not read from GGUF: give the model as a folder of safetensors."
            )
    config = {
        "model_type": architecture,
        "architectures": ["GGUFForCausalLM"],
        "tie_word_embeddings": "lm_head.weight" not in shapes,
        **settings,
    }
    check_types(config, file)
    return config, shapes
