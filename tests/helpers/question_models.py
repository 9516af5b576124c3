"""Models that mark an answer in a context, with tokenizers of pairs, and questions for them."""

import json
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from tiny_builds import SPECIAL, WORDS, model_folder
from tokenizers import Tokenizer, processors

KNOWN = [*WORDS[:20], "w99w", "00w1", "w001w002", "xyz"]
"""Words of which some are whole tokens, some are in pieces and some are unknown."""


def answerer_folder(folder: Path, family: str = "bert-answerer") -> Path:
    """A random model with sure answers, and a tokenizer of pieces that puts two texts together as
    BERT's does."""
    model_folder(folder, family, pieces=True)
    weights = load_file(folder / "model.safetensors")
    generator = torch.Generator().manual_seed(3)
    for name, values in weights.items():
        if "token_type" in name or "qa_outputs.weight" in name:
            weights[name] = torch.randn(values.shape, generator=generator)
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", 1), ("[SEP]", 2)],
    )
    tokenizer.save(str(folder / "tokenizer.json"))
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_input_names": ["input_ids", "token_type_ids", "attention_mask"],
        "model_max_length": 64,
        **{f"{name.strip('[]').lower()}_token": name for name in SPECIAL},
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    return folder


def questions(count: int, context: tuple[int, int] = (8, 30), seed: int = 0) -> list[dict]:
    """Rows as SQuAD has them: questions of a few words, contexts of so many, each with an answer of
    one to four words."""
    rng = np.random.default_rng(seed)
    rows = []
    for _ in range(count):
        words = rng.choice(KNOWN, int(rng.integers(*context))).tolist()
        first = int(rng.integers(len(words)))
        answer = " ".join(words[first : first + int(rng.integers(1, 5))])
        start = len(" ".join(words[:first])) + (first > 0)
        rows.append(
            {
                "question": " ".join(rng.choice(KNOWN, 4)),
                "context": " ".join(words),
                "answers": {"text": [answer], "answer_start": [start]},
            }
        )
    return rows
