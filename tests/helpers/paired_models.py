"""Classifiers of pairs: a model whose types of tokens weigh much, and its tokenizer."""

import json
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from tiny_builds import SPECIAL, WORDS, sentence_lines
from tiny_models import make_model
from tokenizers import Tokenizer, models, pre_tokenizers, processors

Pair = tuple[str, str]
LABELS = {"id2label": {"0": "entailment", "1": "neutral", "2": "contradiction"}, "label2id": {}}


def pair_folder(folder: Path, family: str = "classifier", **config: object) -> Path:
    """A random model with sure answers, and a tokenizer that puts two texts together as BERT's
    does; `config` adds to its settings."""
    make_model(family, folder, unequal=False)
    weights = load_file(folder / "model.safetensors")
    generator = torch.Generator().manual_seed(3)
    for name, values in weights.items():
        if "token_type" in name or "classifier" in name:
            weights[name] = torch.randn(values.shape, generator=generator)
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    stated = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(stated | LABELS | config))
    vocabulary = {word: number for number, word in enumerate(SPECIAL + WORDS)}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", 1), ("[SEP]", 2)],
    )
    tokenizer.add_special_tokens(SPECIAL)
    tokenizer.save(str(folder / "tokenizer.json"))
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_input_names": ["input_ids", "token_type_ids", "attention_mask"],
        "model_max_length": 64,
        **{f"{name.strip('[]').lower()}_token": name for name in SPECIAL},
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    return folder


def pairs(count: int = 60, seed: int = 0) -> list[Pair]:
    """Different pairs of sentences of 3 to 14 words."""
    return list(zip(sentence_lines(count, seed), sentence_lines(count, seed + 1), strict=True))


def write_pairs(file: Path, count: int = 60, **names: str) -> Path:
    """Rows of pairs with a label by name, in a .jsonl; `names` are the fields' other names."""
    rng = np.random.default_rng(5)
    rows = [
        {
            names.get("text", "text"): first,
            names.get("text_pair", "text_pair"): second,
            "label": LABELS["id2label"][str(rng.integers(3))],
        }
        for first, second in pairs(count)
    ]
    file.write_text("\n".join(map(json.dumps, rows)))
    return file
