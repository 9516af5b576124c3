"""Tiny models in folders with a tokenizer, tiny texts, and a recipe that builds in seconds."""

import json
from pathlib import Path

import numpy as np
from click.testing import CliRunner, Result
from tiny_models import FILLERS, VOCABULARY, make_model
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors

from edgeprune.cli import main

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
measure: {tokens: 12, seconds: 0.2, launches: 1, profile: false, curve: [], stages: false}
"""


def model_folder(folder: Path, family: str = "bert", pieces: bool = False) -> Path:
    """A random model of a family, beside a tokenizer of words, or of WordPiece's pieces; with
    [MASK] in the last word's place where the model fills in what is masked."""
    make_model(family, folder, unequal=False)
    tokenizer = word_piece_tokenizer(VOCABULARY) if pieces else _word_tokenizer()
    special = SPECIAL
    if family in FILLERS:
        special = [*SPECIAL, "[MASK]"]
        content = json.loads(tokenizer.to_str())
        last = content["model"]["vocab"]
        last["[MASK]"] = last.pop(max(last, key=last.get))
        tokenizer = Tokenizer.from_str(json.dumps(content))
        tokenizer.add_special_tokens(["[MASK]"])
    tokenizer.save(str(folder / "tokenizer.json"))
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": 64,
        **{f"{name.strip('[]').lower()}_token": name for name in special},
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    return folder


def _word_tokenizer() -> Tokenizer:
    vocabulary = {word: i for i, word in enumerate(SPECIAL + WORDS)}
    return _completed(Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]")))


def word_piece_tokenizer(size: int) -> Tokenizer:
    """So many tokens: special ones, single letters, and the first of the words."""
    letters = list("w0123456789")
    pieces = [*SPECIAL, *letters, *(f"##{letter}" for letter in letters), *WORDS][:size]
    vocabulary = {piece: i for i, piece in enumerate(pieces)}
    tokenizer = _completed(Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]")))
    tokenizer.decoder = decoders.WordPiece()
    return tokenizer


def _completed(tokenizer: Tokenizer) -> Tokenizer:
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 1), ("[SEP]", 2)]
    )
    tokenizer.add_special_tokens(SPECIAL)
    return tokenizer


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


def dry_run(model: Path, place: Path) -> Result:
    """`edgeprune build --dry-run` of a model's folder, its text and recipe in `place`."""
    recipe = recipe_file(place / "dry.yaml", "text: {max_tokens: 16}\nmeasure: {tokens: 12}")
    given = ["build", recipe, "--model", model, "--data", text_file(place / "dry.txt"), "--dry-run"]
    return CliRunner().invoke(main, list(map(str, given)))
