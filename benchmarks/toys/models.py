"""Toy models by type: their sizes, their tokenizers, and random weights."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import transformers as t

from toys import vocabularies as v

ROWS = 512
"""Rows of a table: more than there are tokens, as of many models that are trained."""


@dataclass(frozen=True)
class Type:
    """A type of models: its sizes as a toy, and its tokenizer."""

    tokenizer: Callable[[], Any]
    settings: Mapping[str, Any] = field(default_factory=dict)


_SIZES = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "max_position_embeddings": 128,
}
_GROUPED = {**_SIZES, "num_key_value_heads": 2}
_OFFSET = {**_SIZES, "max_position_embeddings": 130, "type_vocab_size": 1}
_DISTANCES = {
    **_SIZES,
    "relative_attention": True,
    "pos_att_type": ["c2p", "p2c"],
    "position_biased_input": False,
    "type_vocab_size": 0,
}
TYPES: Mapping[str, Type] = {
    "bert": Type(v.bert_tokenizer, _SIZES),
    "distilbert": Type(
        v.bert_tokenizer,
        {
            "dim": 32,
            "n_layers": 2,
            "n_heads": 4,
            "hidden_dim": 64,
            "max_position_embeddings": 128,
        },
    ),
    "electra": Type(v.bert_tokenizer, {**_SIZES, "embedding_size": 16}),
    "mpnet": Type(v.mpnet_tokenizer, {**_SIZES, "max_position_embeddings": 130}),
    "roberta": Type(v.roberta_tokenizer, _OFFSET),
    "xlm-roberta": Type(v.xlm_roberta_tokenizer, _OFFSET),
    "modernbert": Type(
        v.modernbert_tokenizer,
        {**_SIZES, "num_hidden_layers": 4, "local_attention": 8},
    ),
    "deberta": Type(v.deberta_tokenizer, {**_DISTANCES, "max_relative_positions": -1}),
    "deberta-v2": Type(
        v.deberta_v2_tokenizer,
        {
            **_DISTANCES,
            "position_buckets": 16,
            "norm_rel_ebd": "layer_norm",
            "share_att_key": True,
        },
    ),
    "gpt2": Type(v.gpt2_tokenizer, {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 128}),
    "opt": Type(
        v.opt_tokenizer,
        {
            "hidden_size": 32,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "ffn_dim": 64,
            "word_embed_proj_dim": 32,
            "max_position_embeddings": 128,
        },
    ),
    "qwen2": Type(v.qwen_tokenizer, {**_GROUPED, "tie_word_embeddings": True}),
    "qwen3": Type(v.qwen_tokenizer, {**_GROUPED, "head_dim": 16, "tie_word_embeddings": True}),
    "llama": Type(
        v.llama_tokenizer,
        {
            **_GROUPED,
            "rope_parameters": {
                "rope_type": "llama3",
                "rope_theta": 500_000.0,
                "factor": 8.0,
                "low_freq_factor": 1.0,
                "high_freq_factor": 4.0,
                "original_max_position_embeddings": 32,
            },
        },
    ),
}


@dataclass(frozen=True)
class Head:
    """A kind of model by what it answers."""

    loader: str
    settings: Mapping[str, Any] = field(default_factory=dict)


Saved = Callable[[Path], None]
"""A change of a folder that transformers wrote, to what lies on the hub."""


def make_model(model_type: str, head: Head, saved: Sequence[Saved], folder: Path) -> Path:
    """A folder with weights, configuration and tokenizer."""
    kind = TYPES[model_type]
    tokenizer = kind.tokenizer()
    tokens = {
        name: getattr(tokenizer, name)
        for name in ("pad_token_id", "bos_token_id", "eos_token_id", "cls_token_id", "sep_token_id")
        if getattr(tokenizer, name, None) is not None
    }
    settings = {"vocab_size": ROWS, **tokens, **kind.settings, **head.settings}
    config = t.AutoConfig.for_model(model_type, **settings)
    torch.manual_seed(0)
    module = getattr(t, head.loader).from_config(config)
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            parameter.normal_(std=0.2 if parameter.ndim > 1 else 0.1)
            if "norm" in name.lower() and name.endswith("weight"):
                parameter.add_(1.0)
    module.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    for change in saved:
        change(folder)
    return folder
