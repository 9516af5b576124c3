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
NAMES = ("entailment", "neutral", "contradiction")


def pair_folder(
    folder: Path, family: str = "classifier", labels: int = 3, **config: object
) -> Path:
    """A random model with sure answers, and a tokenizer that puts two texts together as BERT's
    does; `config` adds to its settings."""
    make_model(family, folder, unequal=False)
    weights = load_file(folder / "model.safetensors")
    generator = torch.Generator().manual_seed(3)
    for name, values in weights.items():
        if "token_type" in name or "classifier" in name:
            weights[name] = torch.randn(values.shape, generator=generator)
        if "classifier" in name and len(values) == len(NAMES):
            weights[name] = weights[name][:labels].clone()
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    stated = json.loads((folder / "config.json").read_text())
    names = dict(enumerate(NAMES[:labels]))
    named = {"id2label": names, "label2id": {name: n for n, name in names.items()}}
    (folder / "config.json").write_text(json.dumps(stated | named | config))
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


def write_pairs(file: Path, count: int = 60, truth: str = "label", **names: str) -> Path:
    """Rows of pairs in a .jsonl, with a label by name, several `labels` or a `score` of 0 to 1;
    `names` are the texts' other names."""
    rng = np.random.default_rng(5)
    rows = []
    for first, second in pairs(count):
        true = {
            "label": rng.choice(NAMES),
            "labels": [name for name in NAMES if rng.random() < 0.5],
            "score": round(rng.random(), 3),
        }
        texts = {names.get("text", "text"): first, names.get("text_pair", "text_pair"): second}
        rows.append(texts | {truth: true[truth]})
    file.write_text("\n".join(map(json.dumps, rows)))
    return file


def write_judged(file: Path, count: int = 12) -> Path:
    """Rows of a query with a positive document or two and three negative ones, in a .jsonl."""
    queries, texts = sentence_lines(count, 8), iter(sentence_lines(6 * count, 9))
    rows = [
        {
            "query": query,
            "positive": [next(texts) for _ in range(1 + number % 2)],
            "negative": [next(texts) for _ in range(3)],
        }
        for number, query in enumerate(queries)
    ]
    file.write_text("\n".join(map(json.dumps, rows)))
    return file
