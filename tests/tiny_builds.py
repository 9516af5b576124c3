"""Tiny models in folders with a tokenizer, tiny texts, and a recipe that builds in seconds."""

import json
from pathlib import Path

import numpy as np
from tiny_models import VOCABULARY, make_model
from tokenizers import Tokenizer, models, pre_tokenizers, processors

SPECIAL = ["[PAD]", "[CLS]", "[SEP]", "[UNK]"]
WORDS = [f"w{number:03d}" for number in range(VOCABULARY - len(SPECIAL))]

RECIPE = """
name: tiny
text: {max_tokens: 16, batch_tokens: 256, held_out: 0.2, held_out_samples: 16}
prune:
  pattern: channels+heads
  sparsity: 0.5
  head_sparsity: 0.5
  steps: 8
  updates: 3
  checks: 2
  precision: float32
cut: {}
recover: {steps: 6, checks: 2, precision: float32}
quantize: {calibration_samples: 8}
measure: {tokens: 12, seconds: 0.2, profile: false, curve: [], stages: false}
"""


def model_folder(folder: Path, family: str = "bert") -> Path:
    """A random model of a family, beside a tokenizer of words."""
    make_model(family, folder, unequal=False)
    tokenizer = Tokenizer(
        models.WordLevel({word: i for i, word in enumerate(SPECIAL + WORDS)}, unk_token="[UNK]")
    )
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 1), ("[SEP]", 2)]
    )
    tokenizer.add_special_tokens(SPECIAL)
    tokenizer.save(str(folder / "tokenizer.json"))
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": 64,
        **{f"{name.strip('[]').lower()}_token": name for name in SPECIAL},
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    return folder


def sentence_lines(count: int = 60, seed: int = 0) -> list[str]:
    """Different sentences of 3 to 14 words."""
    rng = np.random.default_rng(seed)
    return [" ".join(rng.choice(WORDS, int(rng.integers(3, 15)))) for _ in range(count)]


def text_file(file: Path, count: int = 60) -> Path:
    """A .txt of sentences, or a .jsonl of labelled ones."""
    lines = sentence_lines(count)
    if file.suffix == ".jsonl":
        lines = [json.dumps({"text": t, "label": i % 3}) for i, t in enumerate(lines)]
    file.write_text("\n".join(lines), encoding="utf-8")
    return file


def recipe_file(file: Path, content: str = RECIPE) -> Path:
    file.write_text(content, encoding="utf-8")
    return file
