"""Batches of a text, one reader for each form in which a task takes it.

Sentences train an encoder's embeddings, labelled texts a classifier, tagged words a classifier of
tokens, questions what marks their answers, masked texts what fills them in, and windows of the
running text a decoder. All are drawn without end for training, plainly for the held-out loss, and
by the text's sampler for calibration; the same seed gives the same batches.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from tokenizers import Encoding, Tokenizer

from edgeprune.base.errors import UserError
from edgeprune.text.answers import cut_into_windows, token_span, windows
from edgeprune.text.balance import Evened, balanced_rows, rarest, shares
from edgeprune.text.batches import Batch, Shape, Tokens, by_length, full
from edgeprune.text.corpus import Corpus
from edgeprune.text.masks import FEWEST_TOKENS, masked, too_short
from edgeprune.text.pairs import Document
from edgeprune.text.samplers import from_clusters, share_out
from edgeprune.text.sentences import fragment
from edgeprune.text.settings import TextSettings
from edgeprune.text.tags import token_labels

Embed = Callable[[Sequence[Tokens]], np.ndarray]
"""Vectors [sequences, width] of tokenized texts."""

Pool = Sequence[Any] | np.ndarray
"""Everything that may be drawn: texts, or windows [windows, tokens]."""

_POOL_BATCHES = 16
"""Batches sorted by length together: enough that little is padding, few enough to stay random."""
_USUAL_TOKENS = 24
"""Tokens in an average sentence; the pool's size need not be exact."""


@dataclass(frozen=True)
class Reader(ABC):
    """Batches of a text's two parts, once a tokenizer is known."""

    train: Corpus
    held_out: Corpus
    settings: TextSettings
    seed: int
    tokenizer: Tokenizer
    pad_id: int
    before: str = ""
    """The text before each: the prompt that a sentence encoder reads without being asked."""
    typed: bool = True
    """Whether clients say of which of a pair's texts each token is."""
    mask_id: int = 0
    """The token that stands for a masked one, where some are."""

    def batches(self, purpose: str = "") -> Iterator[Batch]:
        """Training batches without end: the same for the same seed and purpose, others for
        another."""
        return self._training(np.random.default_rng([self.seed, 1, *purpose.encode()]))

    @abstractmethod
    def held_out_batches(self) -> list[Batch]:
        """Text that no stage trains on, whole: no fragments of sentences."""

    def calibration(
        self, sequences: int, embed: Embed, sequences_per_batch: int | None = None
    ) -> list[Batch]:
        """Batches of this many different training sequences, or of all, drawn by the sampler.

        Args:
            embed: used where the sampler clusters.
            sequences_per_batch: the most that a batch holds, in the order in which they were drawn,
                so that the first batches are as random as all of them; None puts sequences of like
                length together.

        Raises:
            UserError: shares name a group that the text does not have.
        """
        rng = np.random.default_rng([self.seed, 1])
        sampler = self.settings.sampler
        pools = self._pools(self.train)
        if sampler == "stratified":
            pools = {name: self._pool(part) for name, part in self.train.by_group().items()}
        sizes = {name: len(pool) for name, pool in pools.items()}
        even = dict(zip(sizes, shares(list(sizes.values()), self._language_balance), strict=True))
        count = max(sequences, self.settings.candidates) if sampler == "clusters" else sequences
        counts = share_out(count, sizes, self.settings.shares or even)
        chosen = [
            pool[index]
            for name, pool in pools.items()
            for index in rng.permutation(len(pool))[: counts[name]]
        ]
        drawn = self._tokens(chosen, rng)
        if sampler == "clusters":
            drawn = [drawn[index] for index in from_clusters(embed(drawn), sequences, rng)]
        if len(pools) > 1 or sampler != "random":
            drawn = [drawn[index] for index in rng.permutation(len(drawn))]
        if sequences_per_batch is None:
            return list(by_length(drawn, self._shape))
        most = min(sequences_per_batch, self._full_sequences)
        return [
            batch
            for start in range(0, len(drawn), most)
            for batch in by_length(drawn[start : start + most], self._shape)
        ]

    def encode(self, texts: Sequence[Document]) -> list[Tokens]:
        """Tokens of texts or pairs with special tokens, cut at max_tokens, of a pair the longer
        text first."""
        return [Tokens(each.ids, self.types_of(each)) for each in self.encodings(texts)]

    def encodings(self, texts: Sequence[Document]) -> list[Encoding]:
        """The same as the tokenizer has them."""
        self.tokenizer.no_padding()
        self.tokenizer.enable_truncation(self.settings.max_tokens, strategy="longest_first")
        before = self.before
        return self.tokenizer.encode_batch(
            [before + text if isinstance(text, str) else text for text in texts]
        )

    def types_of(self, encoding: Encoding) -> list[int]:
        """Of which of a pair's texts each token is, as clients tell the model."""
        return encoding.type_ids if self.typed else [0] * len(encoding.ids)

    @abstractmethod
    def _training(self, rng: np.random.Generator) -> Iterator[Batch]:
        """Batches without end."""

    @abstractmethod
    def _found(self, part: Corpus) -> Pool:
        """Everything that may be drawn from a part; it may be nothing."""

    def _pool(self, part: Corpus) -> Pool:
        """Everything that may be drawn from a part.

        Raises:
            UserError: there is nothing.
        """
        return self._found(part)

    def _pools(self, part: Corpus) -> dict[str, Pool]:
        """The pool of each language that has anything, where languages are evened out, or of the
        whole part."""
        if not self._language_balance:
            return {"": self._pool(part)}
        found = {name: self._found(some) for name, some in part.by_language.items()}
        return {name: pool for name, pool in found.items() if len(pool)} or {"": self._pool(part)}

    def _evened(self, part: Corpus) -> tuple[Pool, list[Evened]]:
        """The texts that may be drawn from a part, and how they are evened out, if they are."""
        pools = self._pools(part)
        if not self._language_balance:
            return pools[""], []
        kinds = np.repeat(np.arange(len(pools)), [len(pool) for pool in pools.values()])
        items = [each for pool in pools.values() for each in pool]
        return items, [Evened(kinds, self._language_balance)]

    def _held_out(self) -> Pool:
        """The texts on which the held-out loss is measured."""
        items, by = self._evened(self.held_out)
        if by:
            order = balanced_rows(len(items), by, np.random.default_rng([self.seed, 2]))
            items = [items[row] for row in order]
        return items[: self.settings.held_out_samples]

    @property
    def _language_balance(self) -> float:
        return self.settings.language_balance

    @abstractmethod
    def _tokens(self, drawn: Sequence[Any], rng: np.random.Generator) -> list[Tokens]:
        """Tokens of what was drawn from a pool."""

    @property
    def _shape(self) -> Shape:
        return Shape(self.settings.batch_tokens, self.settings.max_tokens, self.pad_id)

    @property
    def _full_sequences(self) -> int:
        """Sequences of the full length in one batch."""
        return max(1, self.settings.batch_tokens // self.settings.max_tokens)

    @property
    def _sequences_in_pool(self) -> int:
        return _POOL_BATCHES * max(8, self.settings.batch_tokens // _USUAL_TOKENS)


class SentenceReader(Reader):
    """Sentences, some of them cut to a few words."""

    def held_out_batches(self) -> list[Batch]:
        return list(by_length(self.encode(list(self._held_out())), self._shape))

    def _training(self, rng: np.random.Generator) -> Iterator[Batch]:
        pool, by = self._evened(self.train)
        count = self._sequences_in_pool
        while True:
            rows: Iterable[int] = (int(rng.integers(len(pool))) for _ in range(count))
            if by:
                rows = balanced_rows(len(pool), by, rng)[:count]
            texts = [self._view(pool[row], rng) for row in rows]
            yield from _shuffled(by_length(self.encode(texts), self._shape), rng)

    def _found(self, part: Corpus) -> list[str]:
        return part.sentences.texts

    def _pool(self, part: Corpus) -> list[str]:
        if not part.sentences.texts:
            raise UserError(f"{part.source} holds no sentence of three words or more.")
        return part.sentences.texts

    def _tokens(self, drawn: Sequence[str], rng: np.random.Generator) -> list[Tokens]:
        return self.encode([self._view(text, rng) for text in drawn])

    def _view(self, text: str, rng: np.random.Generator) -> str:
        """The sentence, or now and then a few words out of it."""
        return fragment(text, rng) if rng.random() < self.settings.fragments else text


class LabelledReader(Reader):
    """Whole texts or pairs of texts, each with its truth: a label, labels or a score."""

    def held_out_batches(self) -> list[Batch]:
        return list(self._labelled(self.held_out, np.array(self._held_out())))

    def _training(self, rng: np.random.Generator) -> Iterator[Batch]:
        rows, by = self._evened(self.train)
        count = self._sequences_in_pool
        while True:
            order = balanced_rows(len(rows), by, rng) if by else rng.permutation(len(rows))
            for start in range(0, len(order), count):
                yield from _shuffled(self._labelled(self.train, order[start : start + count]), rng)

    def _evened(self, part: Corpus) -> tuple[Sequence[int], list[Evened]]:
        """The rows of a part's documents, evened out by language, and by label within each."""
        by = []
        if self._language_balance:
            _, kinds = np.unique(part.languages, return_inverse=True)
            by.append(Evened(kinds, self._language_balance))
        if self.settings.balance:
            assert part.labels is not None
            by.append(Evened(rarest(part.labels), self.settings.balance))
        return range(len(part.documents)), by

    def _labelled(self, part: Corpus, rows: np.ndarray) -> Iterator[Batch]:
        """Batches of some documents of a part with their labels."""
        assert part.labels is not None
        tokens = self.encode([part.documents[row] for row in rows])
        return by_length(tokens, self._shape, np.array([part.labels[row] for row in rows]))

    def _found(self, part: Corpus) -> Sequence[Document]:
        return part.documents

    def _tokens(self, drawn: Sequence[Document], rng: np.random.Generator) -> list[Tokens]:
        return self.encode(drawn)


class TaggedReader(LabelledReader):
    """Texts of words, each word with its label."""

    def _labelled(self, part: Corpus, rows: np.ndarray) -> Iterator[Batch]:
        assert part.labels is not None
        texts = [str(part.documents[row]) for row in rows]
        encodings = self.encodings(texts)
        labels = [
            token_labels(text, encoding.offsets, part.labels[row])
            for text, encoding, row in zip(texts, encodings, rows, strict=True)
        ]
        tokens = [Tokens(encoding.ids, encoding.type_ids) for encoding in encodings]
        return by_length(tokens, self._shape, labels)


class QuestionReader(LabelledReader):
    """Questions with their contexts in windows of max_tokens, each with the first and the last
    token of its answer."""

    def _labelled(self, part: Corpus, rows: np.ndarray) -> Iterator[Batch]:
        assert part.labels is not None
        found = self._windows([part.documents[row] for row in rows])
        spans = [part.labels[row] for row in rows]
        each = [(one, span) for some, span in zip(found, spans, strict=True) for one in some]
        tokens = [Tokens(encoding.ids, self.types_of(encoding)) for encoding, _ in each]
        labels = np.array([token_span(*one) for one in each])
        return by_length(tokens, self._shape, labels)

    def _tokens(self, drawn: Sequence[Document], rng: np.random.Generator) -> list[Tokens]:
        """One window of each, drawn: each has as much to say of its question."""
        chosen = [some[rng.integers(len(some))] for some in self._windows(drawn)]
        return [Tokens(encoding.ids, self.types_of(encoding)) for encoding in chosen]

    def _windows(self, documents: Sequence[Document]) -> list[list[Encoding]]:
        pairs = [document for document in documents if not isinstance(document, str)]
        cut_into_windows(self.tokenizer, self.settings.max_tokens)
        return windows(self.tokenizer, pairs, self.settings.max_tokens)


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
        count = self._sequences_in_pool
        while True:
            order = balanced_rows(len(windows), by, rng) if by else rng.permutation(len(windows))
            for start in range(0, len(order), count):
                some = [windows[place] for place in order[start : start + count]]
                yield from _shuffled(self._masked(some, rng), rng)

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
        while True:
            order = balanced_rows(len(windows), by, rng) if by else rng.permutation(len(windows))
            for start in range(0, len(order) - size + 1, size):
                yield full(windows[order[start : start + size]])

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


READERS: dict[str, type[Reader]] = {
    "sentences": SentenceReader,
    "labelled": LabelledReader,
    "multi-labelled": LabelledReader,
    "scored": LabelledReader,
    "tagged": TaggedReader,
    "asked": QuestionReader,
    "masked": MaskedReader,
    "windows": WindowReader,
}
"""By the form in which a task takes its text."""


def _single(ids: list[int]) -> Tokens:
    """Tokens of a text that is no pair."""
    return Tokens(ids, [0] * len(ids))


def _shuffled(batches: Iterator[Batch], rng: np.random.Generator) -> Iterator[Batch]:
    made = list(batches)
    for index in rng.permutation(len(made)):
        yield made[index]
