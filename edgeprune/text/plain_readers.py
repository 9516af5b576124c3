"""Readers of texts alone: sentences, texts to be masked, and windows of the running text."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from edgeprune.base.errors import UserError
from edgeprune.text.balance import rounds
from edgeprune.text.batches import Batch, Tokens, by_length, full
from edgeprune.text.corpus import Corpus
from edgeprune.text.masks import FEWEST_TOKENS, masked, too_short
from edgeprune.text.reader import Reader, shuffled
from edgeprune.text.sentences import fragment


class SentenceReader(Reader):
    """Sentences, some of them cut to a few words."""

    def held_out_batches(self) -> list[Batch]:
        return list(by_length(self.encode(list(self._held_out())), self._shape))

    def _training(self, rng: np.random.Generator) -> Iterator[Batch]:
        pool, by = self._evened(self.train)
        for rows in rounds(len(pool), by, self._sequences_in_pool, rng):
            texts = [self._view(pool[row], rng) for row in rows]
            yield from shuffled(by_length(self.encode(texts), self._shape), rng)

    def _found(self, part: Corpus) -> list[str]:
        return part.sentences.texts

    def _pool(self, part: Corpus) -> list[str]:
        if not part.sentences.texts:
            raise UserError(f"{part.source} holds no sentence of three words or more.")
        return part.sentences.texts

    def _tokens(self, drawn: Sequence[str], rng: np.random.Generator) -> list[Tokens]:
        return self.encode([self._view(text, rng) for text in drawn])

    def _view(self, text: str, rng: np.random.Generator) -> str:
        """The sentence, or now and then a few words out of it: always the same ones, so that the
        original answers them once."""
        if rng.random() >= self.settings.fragments:
            return text
        return fragment(text, np.random.default_rng([self.seed, 3, *text.encode()]))


@dataclass(frozen=True)
class _Window:
    """A text's tokens, special ones included, and which are its own."""

    ids: list[int]
    own: list[bool]


class MaskedReader(Reader):
    """Texts in windows of max_tokens, some of whose tokens are masked; the labels of these are what
    they were."""

    def held_out_batches(self) -> list[Batch]:
        windows = list(self._held_out())
        return list(self._masked(windows, np.random.default_rng([self.seed, 2])))

    def _training(self, rng: np.random.Generator) -> Iterator[Batch]:
        windows, by = self._evened(self.train)
        for rows in rounds(len(windows), by, self._sequences_in_pool, rng):
            yield from shuffled(self._masked([windows[row] for row in rows], rng), rng)

    def _masked(self, windows: Sequence[_Window], rng: np.random.Generator) -> Iterator[Batch]:
        pairs = [masked(window.ids, window.own, self.mask_id, rng) for window in windows]
        tokens, labels = [_single(ids) for ids, _ in pairs], [truth for _, truth in pairs]
        return by_length(tokens, self._shape, labels)

    def _found(self, part: Corpus) -> list[_Window]:
        windows = [
            _Window(each.ids, [not special for special in each.special_tokens_mask])
            for encoding in self.encodings(part.texts)
            for each in (encoding, *encoding.overflowing)
        ]
        return [window for window in windows if sum(window.own) >= FEWEST_TOKENS]

    def _pool(self, part: Corpus) -> list[_Window]:
        found = self._found(part)
        if not found:
            raise UserError(too_short(part.source))
        return found

    def _tokens(self, drawn: Sequence[_Window], rng: np.random.Generator) -> list[Tokens]:
        return [_single(masked(window.ids, window.own, self.mask_id, rng)[0]) for window in drawn]


class WindowReader(Reader):
    """The documents one after another, in windows of max_tokens."""

    def held_out_batches(self) -> list[Batch]:
        windows, size = np.array(self._held_out()), self._full_sequences
        return [full(windows[start : start + size]) for start in range(0, len(windows), size)]

    def _training(self, rng: np.random.Generator) -> Iterator[Batch]:
        found, by = self._evened(self.train)
        windows = np.array(found)
        size = min(self._full_sequences, len(windows))
        for rows in rounds(len(windows), by, size, rng):
            if len(rows) == size:
                yield full(windows[rows])

    def _found(self, part: Corpus) -> np.ndarray:
        """Every whole window [windows, tokens]."""
        self.tokenizer.no_padding()
        self.tokenizer.no_truncation()
        joined: list[int] = []
        for encoding in self.tokenizer.encode_batch([f"{text}\n" for text in part.texts]):
            joined += encoding.ids
        length = self.settings.max_tokens
        count = len(joined) // length
        return np.array(joined[: count * length], dtype=np.int64).reshape(count, length)

    def _pool(self, part: Corpus) -> np.ndarray:
        windows = self._found(part)
        if not len(windows):
            raise UserError(
                f"{part.source} holds too few tokens of text for this use, less than one "
                f"window of {self.settings.max_tokens}: give more text or a smaller "
                "text.max_tokens."
            )
        return windows

    def _tokens(self, drawn: Sequence[np.ndarray], rng: np.random.Generator) -> list[Tokens]:
        return [_single(window.tolist()) for window in drawn]


def _single(ids: list[int]) -> Tokens:
    """Tokens of a text that is no pair."""
    return Tokens(ids, [0] * len(ids))
