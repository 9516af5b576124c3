"""Find entities in texts with a bundle: a label for every token."""

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any, get_args

import numpy as np
from tokenizers import Encoding

from edgeprune.base.errors import UserError
from edgeprune.runtime.batches import run_batches, usual_batch
from edgeprune.runtime.bundle import Bundle
from edgeprune.runtime.classify import label_names_of
from edgeprune.runtime.entities import Aggregation, Entity, Piece, entities, without_overlaps
from edgeprune.runtime.finite import finite
from edgeprune.runtime.logits import softmax
from edgeprune.runtime.session import bundle_session
from edgeprune.runtime.tokenize import Text, Tokenizer
from edgeprune.runtime.windows import Windows
from edgeprune.text.batches import Tokens
from edgeprune.text.tags import first_tokens

_SHARED = 4
"""Windows of a long text share this part of their tokens with the next one: a quarter."""


class WindowTokenizer(Tokenizer):
    """A tokenizer that cuts nothing: text beyond the model's maximum goes on in windows."""

    @property
    def stride(self) -> int:
        """Tokens that a window shares with the next."""
        return (self.max_length or 0) // _SHARED

    def encode(
        self, texts: Sequence[Text], prompt: str | None = None, first_only: bool = False
    ) -> list[Tokens]:
        """The windows of each text; models that label tokens have no prompts."""
        if self.max_length is not None:
            self.rust.enable_truncation(self.max_length, stride=self.stride)
        try:
            return self.whole(texts, prompt)
        finally:
            self.rust.no_truncation()

    def whole(self, texts: Sequence[Text], prompt: str | None = None) -> list[Tokens]:
        """One window of each text, however long; several threads may call this at once."""
        encodings, _ = self._encoded(texts, prompt)
        return [
            Windows(
                first.ids,
                first.type_ids,
                text=str(text),
                encodings=(first, *first.overflowing),
            )
            for text, first in zip(texts, encodings, strict=True)
        ]


class Tagger:
    """A classifier of tokens, and the entities that its labels make."""

    def __init__(self, bundle: Bundle, threads: int | None = None) -> None:
        self.bundle = bundle
        self.tokenizer = WindowTokenizer(bundle)
        self.session = bundle_session(bundle, threads)
        self.default_batch = usual_batch(bundle.model_path)
        self.labels = label_names_of(bundle)
        self._prefix = getattr(self.tokenizer.rust.model, "continuing_subword_prefix", None)

    def tag(
        self,
        texts: Sequence[str],
        aggregation: Aggregation = "simple",
        batch_size: int | None = None,
    ) -> list[list[Entity]]:
        """The entities of each text, in its order.

        Args:
            aggregation: how tokens make entities: none, simple, first, average or max, as
                edgeprune.runtime.entities says.

        Raises:
            UserError: an unknown aggregation.
            ModelFault: the model returns NaN or infinity.
        """
        if aggregation not in get_args(Aggregation):
            known = ", ".join(get_args(Aggregation))
            raise UserError(f"There is no aggregation {aggregation!r}: take one of {known}.")
        encoded = self.tokenizer.encode(texts)
        return self._entities(encoded, aggregation, batch_size)

    def answers(self, encoded: Sequence[Tokens], batch_size: int | None = None) -> list[Any]:
        """Entities of tokenized texts, as plain values."""
        return [
            [asdict(entity) for entity in found]
            for found in self._entities(encoded, "simple", batch_size)
        ]

    def line(self, answer: list[dict[str, Any]]) -> str:
        """Every entity with its label and probability."""
        return "; ".join(f"{one['text']} {one['label']} {one['score']:.3f}" for one in answer)

    def named(self, answer: list[dict[str, Any]]) -> dict[str, Any]:
        """The entities."""
        return {"entities": answer}

    def word_labels(self, texts: Sequence[str]) -> list[list[int]]:
        """The number of the likeliest label of every word of texts that have one space between
        words: that of its first token, in the window that has most around it. A word without
        tokens is outside."""
        encoded = self.tokenizer.encode(texts)
        outside = self.labels.index("O") if "O" in self.labels else 0
        found = []
        for text, windows in zip(texts, self._probabilities(encoded, None), strict=True):
            best = [(-1, outside)] * (text.count(" ") + 1)
            first: dict[int, int] = {}
            for encoding, rows in windows:
                for token, word in first_tokens(text, encoding.offsets):
                    start = encoding.offsets[token][0]
                    around = min(token, len(rows) - 1 - token)
                    if first.setdefault(word, start) == start and around > best[word][0]:
                        best[word] = (around, int(rows[token].argmax()))
            found.append([label for _, label in best])
        return found

    def _entities(
        self, encoded: Sequence[Tokens], how: Aggregation, batch_size: int | None
    ) -> list[list[Entity]]:
        found = []
        for tokens, windows in zip(encoded, self._probabilities(encoded, batch_size), strict=True):
            text = str(tokens.text) if isinstance(tokens, Windows) else ""
            each = [
                entities(text, self._pieces(text, encoding, rows), self.labels, how)
                for encoding, rows in windows
            ]
            joined = [entity for some in each for entity in some]
            found.append(without_overlaps(joined) if len(each) > 1 else joined)
        return found

    def _pieces(self, text: str, encoding: Encoding, rows: np.ndarray) -> list[Piece]:
        pieces = []
        for token, (start, end) in enumerate(encoding.offsets):
            if encoding.special_tokens_mask[token]:
                continue
            if self._prefix:
                continues = len(encoding.tokens[token]) != end - start
            else:  # without a mark of such tokens: by the spaces, as transformers does
                continues = start > 0 and " " not in text[start - 1 : start + 1]
            continues &= encoding.ids[token] != self.tokenizer.unknown_id
            pieces.append(Piece(start, end, continues, rows[token]))
        return pieces

    def _probabilities(
        self, encoded: Sequence[Tokens], batch_size: int | None
    ) -> list[list[tuple[Encoding, np.ndarray]]]:
        """Of each text its windows, each with the probabilities of its labels [tokens, labels]."""
        windows = [
            (row, encoding)
            for row, tokens in enumerate(encoded)
            for encoding in (tokens.encodings if isinstance(tokens, Windows) else (tokens,))
        ]
        flat = [Tokens(encoding.ids, encoding.type_ids) for _, encoding in windows]
        rows: list[np.ndarray] = [np.empty(0)] * len(flat)
        for places, logits, mask in run_batches(
            self.session, self.tokenizer, "logits", flat, batch_size or self.default_batch
        ):
            if logits.shape[-1] != len(self.labels):
                raise UserError(
                    f"{self.bundle.folder}: the model gives {logits.shape[-1]} logits and "
                    f"config.json names {len(self.labels)} labels."
                )
            for place, values, real in zip(places, logits, mask, strict=True):
                some = finite(values[: int(real.sum())], "logits", self.bundle)
                # In float32, where sure tokens tie as they do for transformers.
                rows[place] = softmax(some).astype(np.float32)
        found: list[list[tuple[Encoding, np.ndarray]]] = [[] for _ in encoded]
        for (row, encoding), values in zip(windows, rows, strict=True):
            if isinstance(encoding, Encoding):
                found[row].append((encoding, values))
        return found
