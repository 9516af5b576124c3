"""Tokenizers of the kind that each type has, learnt from the project's own pages.

The tokenizers library learns them, and the class that transformers names for the type writes them.
"""

import functools
import json
import re
from pathlib import Path
from typing import Any

import transformers as t
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from tokenizers.processors import TemplateProcessing

ROOT = Path(__file__).parents[2]
SIZE = 500
"""Tokens of a vocabulary, about."""


@functools.cache
def sentences() -> list[str]:
    """The running text of the project's pages, a sentence each."""
    pages = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
    prose = " ".join(
        line
        for page in pages
        for line in page.read_text(encoding="utf-8").splitlines()
        if re.match(r"[A-Za-z`]", line)
    )
    whole = re.findall(r"[A-Z][^.:!?|`<>*\[\]]{30,90}[.!?](?= )", prose)
    return list(dict.fromkeys(whole))


def texts() -> list[str]:
    """The texts that are asked."""
    return sentences()[:: len(sentences()) // 12][:12]


def word_pieces(*special: str) -> dict[str, Any]:
    """WordPiece's vocabulary of lower-case text."""
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    trainer = trainers.WordPieceTrainer(
        vocab_size=SIZE, special_tokens=list(special), show_progress=False
    )
    tokenizer.train_from_iterator(sentences(), trainer)
    return {"vocab": tokenizer.get_vocab()}


def joined_bytes(*special: str) -> dict[str, Any]:
    """Byte-level BPE's vocabulary and merges."""
    tokenizer = byte_level(special)
    model = json.loads(tokenizer.to_str())["model"]
    return {"vocab": model["vocab"], "merges": [tuple(merge) for merge in model["merges"]]}


def byte_level(special: tuple[str, ...]) -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=SIZE,
        special_tokens=list(special),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(sentences(), trainer)
    return tokenizer


def unigrams(unknown: str, *special: str) -> dict[str, Any]:
    """Unigram's vocabulary with its scores, as SentencePiece learns it."""
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    trainer = trainers.UnigramTrainer(
        vocab_size=SIZE, special_tokens=list(special), unk_token=unknown, show_progress=False
    )
    tokenizer.train_from_iterator(sentences(), trainer)
    scored = json.loads(tokenizer.to_str())["model"]["vocab"]
    return {"vocab": [(piece, score) for piece, score in scored]}


def whole_file(first: str, last: str, *special: str) -> t.PreTrainedTokenizerFast:
    """A byte-level BPE that a type without a class of its own keeps in tokenizer.json alone."""
    tokenizer = byte_level((first, last, *special))
    around = f"{first} $A {last}" if special else f"{first} $A"
    tokenizer.post_processor = TemplateProcessing(
        single=around,
        special_tokens=[(token, tokenizer.token_to_id(token)) for token in (first, last)],
    )
    return tokenizer


_BERT_TOKENS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
_ROBERTA_TOKENS = ("<s>", "<pad>", "</s>", "<unk>", "<mask>")


def bert_tokenizer() -> Any:
    return t.BertTokenizer(**word_pieces(*_BERT_TOKENS), model_max_length=128)


def mpnet_tokenizer() -> Any:
    special = ("<s>", "<pad>", "</s>", "[UNK]", "<mask>")
    return t.MPNetTokenizer(**word_pieces(*special), model_max_length=126)


def roberta_tokenizer() -> Any:
    return t.RobertaTokenizer(**joined_bytes(*_ROBERTA_TOKENS), model_max_length=126)


def xlm_roberta_tokenizer() -> Any:
    return t.XLMRobertaTokenizer(**unigrams("<unk>", *_ROBERTA_TOKENS), model_max_length=126)


def gpt2_tokenizer() -> Any:
    return t.GPT2Tokenizer(**joined_bytes("<|endoftext|>"), model_max_length=128)


def opt_tokenizer() -> Any:
    return t.GPT2Tokenizer(
        **joined_bytes(*_ROBERTA_TOKENS[:4]),
        bos_token="</s>",
        eos_token="</s>",
        unk_token="</s>",
        pad_token="<pad>",
        add_bos_token=True,
    )


def qwen_tokenizer() -> Any:
    special = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
    return t.Qwen2Tokenizer(
        **joined_bytes(*special),
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        model_max_length=128,
    )


def llama_tokenizer() -> Any:
    return t.PreTrainedTokenizerFast(
        tokenizer_object=whole_file("<|begin_of_text|>", "<|eot_id|>"),
        bos_token="<|begin_of_text|>",
        eos_token="<|eot_id|>",
        model_max_length=128,
    )


def modernbert_tokenizer() -> Any:
    return t.PreTrainedTokenizerFast(
        tokenizer_object=whole_file("[CLS]", "[SEP]", "[PAD]", "[UNK]", "[MASK]"),
        **{f"{name[1:-1].lower()}_token": name for name in _BERT_TOKENS},
        model_max_length=128,
    )


def deberta_tokenizer() -> Any:
    special = ("[CLS]", "[PAD]", "[SEP]", "[UNK]", "[MASK]")
    return t.DebertaTokenizer(**joined_bytes(*special), model_max_length=128)


def deberta_v2_tokenizer() -> Any:
    special = ("[PAD]", "[CLS]", "[SEP]", "[UNK]", "[MASK]")
    return t.DebertaV2Tokenizer(**unigrams("[UNK]", *special), unk_id=3, model_max_length=128)
