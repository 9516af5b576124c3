"""Texts that a model reads in windows of its length."""

from dataclasses import dataclass

from tokenizers import Encoding

from edgeprune.text.batches import Tokens
from edgeprune.text.pairs import Document


@dataclass(frozen=True)
class Windows(Tokens):
    """A text's or a pair's tokens in windows that a model can read; ids and types are the first
    one's."""

    text: Document = ""
    encodings: tuple[Encoding, ...] = ()
