"""Small tokenizers of every kind, of a few stems and endings, as the JSON of their files."""

import functools
import json
from typing import Any

from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

SPECIAL = ["[PAD]", "[CLS]", "[SEP]", "[UNK]"]
STEMS = ["play", "work", "think", "build", "teach", "sing", "read", "paint", "over", "the"]
ENDINGS = ["s", "er", "ers", "ing", "ings", "able", "ed", "load", "loading"]
WORDS = [stem + ending for stem in STEMS for ending in ["", *ENDINGS]]
LETTERS = sorted(set("".join(WORDS)) | set("cfmwyz,!"))
BYTES = [f"<0x{number:02X}>" for number in range(256)]
KINDS = ("wordpiece", "byte-level", "byte-fallback", "unigram", "unigram-bytes")
LOSSLESS = ("byte-level", "byte-fallback", "unigram-bytes")


@functools.cache
def tokenizer_json(kind: str) -> str:
    """The file of a tokenizer of a kind."""
    return _MAKERS[kind]().to_str()


def content(kind: str) -> dict[str, Any]:
    """The same as plain data."""
    return json.loads(tokenizer_json(kind))


def _word_piece() -> Tokenizer:
    inside = [f"##{piece}" for piece in [*LETTERS, *_grown(ENDINGS), "in", "ad", "rs"]]
    pieces = _once([*SPECIAL, "[unused0]", *LETTERS, *inside, *_grown(STEMS), *WORDS[::3]])
    tokenizer = Tokenizer(models.WordPiece(_numbered(pieces), unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    tokenizer.add_special_tokens(SPECIAL)
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", 2), ("[CLS]", 1))
    tokenizer.enable_padding(pad_id=0, pad_token="[PAD]")
    return tokenizer


def _byte_level() -> Tokenizer:
    """GPT-2's: one join for each token."""
    joined = [("Ġ", "t"), ("h", "e")]
    joined += [(word[:i], word[i]) for word in [*ENDINGS, *STEMS] for i in range(1, len(word))]
    joined += [(stem, ending) for stem in STEMS[::2] for ending in ENDINGS]
    joined += [("Ġ" + stem[:i], stem[i]) for stem in STEMS[::3] for i in range(len(stem))]
    joined += [("Ġ" + stem, ending) for stem in STEMS[::3] for ending in ENDINGS[::2]]
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    merges, known = [], set(letters)
    for left, right in _once(joined):
        if left in known and right in known and left + right not in known:
            merges.append((left, right))
            known.add(left + right)
    pieces = [*SPECIAL, *letters, *("".join(merge) for merge in merges)]
    tokenizer = Tokenizer(models.BPE(_numbered(pieces), merges))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(SPECIAL)
    tokenizer.add_special_tokens(["<|end|>"])  # behind the model's own tokens
    end = ("<|end|>", tokenizer.token_to_id("<|end|>"))
    tokenizer.post_processor = processors.Sequence(
        [
            processors.ByteLevel(),
            processors.TemplateProcessing(single="$A <|end|>", special_tokens=[end]),
        ]
    )
    return tokenizer


def _byte_fallback() -> Tokenizer:
    """SentencePiece's BPE: every way to join a token, and bytes for what has no letter."""
    longer = _grown([*ENDINGS, *STEMS, *(f"▁{stem}" for stem in STEMS)])
    pieces = _once([*SPECIAL, *BYTES, *longer, *WORDS[::4], "▁", *LETTERS])
    numbers = _numbered(pieces)
    merges = [
        (piece[:cut], piece[cut:])
        for piece in pieces[len(SPECIAL) + len(BYTES) :]
        for cut in range(1, len(piece))
        if piece[:cut] in numbers and piece[cut:] in numbers
    ]
    tokenizer = Tokenizer(
        models.BPE(numbers, merges, byte_fallback=True, fuse_unk=True, unk_token="[UNK]")
    )
    tokenizer.normalizer = normalizers.Replace(" ", "▁")
    tokenizer.decoder = _sentence_piece_decoder()
    tokenizer.add_special_tokens(SPECIAL)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A", special_tokens=[("[CLS]", 1)]
    )
    return tokenizer


def _unigram(byte_fallback: bool = False) -> Tokenizer:
    longer = _once([*_grown([*ENDINGS, *STEMS]), *(f"▁{word}" for word in WORDS[::2]), "▁"])
    scored = [(piece, -3.0 - 1.7 * (number % 5)) for number, piece in enumerate(longer)]
    scored += [(letter, -9.0 - 0.5 * (number % 3)) for number, letter in enumerate(LETTERS)]
    scored = [entry for entry in scored if entry[0] not in LETTERS or entry[1] <= -9.0]
    first = [(piece, 0.0) for piece in [*SPECIAL, *(BYTES if byte_fallback else [])]]
    tokenizer = Tokenizer(models.Unigram([*first, *scored], unk_id=3, byte_fallback=byte_fallback))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="never")
    tokenizer.decoder = _sentence_piece_decoder()
    tokenizer.add_special_tokens(SPECIAL)
    tokenizer.post_processor = processors.RobertaProcessing(("[SEP]", 2), ("[CLS]", 1))
    return tokenizer


def _sentence_piece_decoder() -> decoders.Decoder:
    return decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])


def _grown(words: list[str]) -> list[str]:
    """Every beginning of two letters or more."""
    return _once([word[:length] for word in words for length in range(2, len(word) + 1)])


def _once(items: list[Any]) -> list[Any]:
    return list(dict.fromkeys(items))


def _numbered(pieces: list[str]) -> dict[str, int]:
    return {piece: number for number, piece in enumerate(pieces)}


_MAKERS = {
    "wordpiece": _word_piece,
    "byte-level": _byte_level,
    "byte-fallback": _byte_fallback,
    "unigram": _unigram,
    "unigram-bytes": functools.partial(_unigram, byte_fallback=True),
}
