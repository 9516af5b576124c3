"""Batches of token ids: sentences of like length for encoders, full windows for decoders."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import Tokenizer

from edgeprune.base.errors import UserError
from edgeprune.text.corpus import Corpus
from edgeprune.text.samplers import from_clusters, share_out
from edgeprune.text.sentences import fragment
from edgeprune.text.settings import TextSettings
from edgeprune.text.tokenizer_file import open_tokenizer

LENGTH_STEP = 8
_POOL_BATCHES = 16
"""Batches sorted by length together: enough that little is padding, few enough to stay random."""


@dataclass(frozen=True)
class Batch:
    """Token ids and mask [sequences, tokens], int64, and a label per sequence where known."""

    input_ids: np.ndarray
    attention_mask: np.ndarray
    labels: np.ndarray | None = None


@dataclass(frozen=True)
class Reader:
    """Turns a corpus into training batches without end and into held-out batches.

    kind: 'sentences' (an encoder's embeddings), 'labelled' (a classifier) or 'windows' (a decoder).
    """

    corpus: Corpus
    kind: str
    tokenizer: Tokenizer
    settings: TextSettings
    pad_id: int
    seed: int

    def training(self, purpose: str = "") -> Iterator[Batch]:
        """Batches without end: the same for the same seed and purpose, others for another."""
        train, _ = self.corpus.split(self.settings.held_out, self.seed)
        rng = np.random.default_rng([self.seed, 1, *purpose.encode()])
        if self.kind == "windows":
            return self._windows(train, rng)
        if self.kind == "labelled":
            return self._labelled(train, rng)
        return self._sentences(train, rng)

    def held_out(self) -> list[Batch]:
        """Text that no step trains on, plain: no fragments."""
        _, held = self.corpus.split(self.settings.held_out, self.seed)
        limit = self.settings.held_out_samples
        if self.kind == "windows":
            windows = self._token_windows(held)[:limit]
            size = self._sequences_per_window_batch
            return [
                Batch(window, np.ones_like(window))
                for window in (windows[i : i + size] for i in range(0, len(windows), size))
            ]
        if self.kind == "labelled":
            assert held.labels is not None
            chosen, labels = held.documents[:limit], np.array(held.labels[:limit])
        else:
            chosen, labels = self._some_sentences(held)[:limit], None
        return list(self._by_length(self.encode(chosen), labels))

    def calibration(
        self,
        sequences: int,
        embed: Callable[[list[list[int]]], np.ndarray],
        together: int | None = None,
    ) -> list[Batch]:
        """Batches of so many different training sequences, or of all, drawn by the sampler.

        Args:
            embed: vectors [sequences, width] of token ids, for clusters.
            together: a batch holds at most so many, drawn one after the other, so that some of the
                batches are as random as all of them; None puts sequences of like length together.

        Raises:
            UserError: shares name a group that there is not.
        """
        train, _ = self.corpus.split(self.settings.held_out, self.seed)
        rng = np.random.default_rng([self.seed, 1])
        sampler = self.settings.sampler
        groups = train.by_group() if sampler == "stratified" else {"": train}
        pools = {name: self._pool(part) for name, part in groups.items()}
        count = max(sequences, self.settings.candidates) if sampler == "clusters" else sequences
        counts = share_out(count, {n: len(p) for n, p in pools.items()}, self.settings.shares)
        drawn = self._ids(
            [
                pool[place]
                for name, pool in pools.items()
                for place in rng.permutation(len(pool))[: counts[name]]
            ],
            rng,
        )
        if sampler == "clusters":
            drawn = [drawn[place] for place in from_clusters(embed(drawn), sequences, rng)]
        if sampler != "random":
            drawn = [drawn[place] for place in rng.permutation(len(drawn))]
        if together is None:
            return list(self._by_length(drawn))
        most = min(together, self._sequences_per_window_batch)
        return [
            batch
            for start in range(0, len(drawn), most)
            for batch in self._by_length(drawn[start : start + most])
        ]

    def _pool(self, corpus: Corpus) -> Sequence[str] | np.ndarray:
        """What sequences are drawn from: windows, or texts that are not token ids yet."""
        if self.kind == "windows":
            return self._token_windows(corpus)
        return self._some_sentences(corpus) if self.kind == "sentences" else corpus.documents

    def _ids(self, drawn: Sequence[Any], rng: np.random.Generator) -> list[list[int]]:
        """Token ids of what was drawn from a pool."""
        if self.kind == "windows":
            return [window.tolist() for window in drawn]
        if self.kind == "sentences":
            drawn = [self._view(text, rng) for text in drawn]
        return self.encode(drawn)

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        """Token ids with special tokens, cut at max_tokens."""
        self.tokenizer.no_padding()
        self.tokenizer.enable_truncation(self.settings.max_tokens)
        return [encoding.ids for encoding in self.tokenizer.encode_batch(list(texts))]

    def _sentences(self, train: Corpus, rng: np.random.Generator) -> Iterator[Batch]:
        pool = self._some_sentences(train)
        # An average sentence has some 24 tokens; the pool's size need not be exact.
        count = _POOL_BATCHES * max(8, self.settings.batch_tokens // 24)
        while True:
            texts = [self._view(pool[rng.integers(len(pool))], rng) for _ in range(count)]
            yield from self._shuffled(self._by_length(self.encode(texts)), rng)

    def _labelled(self, train: Corpus, rng: np.random.Generator) -> Iterator[Batch]:
        assert train.labels is not None
        labels = np.array(train.labels)
        count = _POOL_BATCHES * max(8, self.settings.batch_tokens // 24)
        while True:
            order = rng.permutation(len(labels))
            for start in range(0, len(order), count):
                part = order[start : start + count]
                ids = self.encode([train.documents[i] for i in part])
                yield from self._shuffled(self._by_length(ids, labels[part]), rng)

    def _windows(self, train: Corpus, rng: np.random.Generator) -> Iterator[Batch]:
        windows = self._token_windows(train)
        size = min(self._sequences_per_window_batch, len(windows))
        while True:
            order = rng.permutation(len(windows))
            for start in range(0, len(order) - size + 1, size):
                window = windows[order[start : start + size]]
                yield Batch(window, np.ones_like(window))

    def _token_windows(self, corpus: Corpus) -> np.ndarray:
        """The documents one after another, in windows of max_tokens [windows, tokens]."""
        self.tokenizer.no_padding()
        self.tokenizer.no_truncation()
        joined: list[int] = []
        for encoding in self.tokenizer.encode_batch([f"{text}\n" for text in corpus.documents]):
            joined += encoding.ids
        length = self.settings.max_tokens
        count = len(joined) // length
        if not count:
            raise UserError(
                f"{corpus.source} holds {len(joined)} tokens of text for this use, less than one "
                f"window of {length}: give more text or a smaller text.max_tokens."
            )
        return np.array(joined[: count * length], dtype=np.int64).reshape(count, length)

    @property
    def _sequences_per_window_batch(self) -> int:
        return max(1, self.settings.batch_tokens // self.settings.max_tokens)

    def _some_sentences(self, corpus: Corpus) -> list[str]:
        found = corpus.sentences.texts
        if not found:
            raise UserError(f"{corpus.source} holds no sentence of three words or more.")
        return found

    def _view(self, text: str, rng: np.random.Generator) -> str:
        return fragment(text, rng) if rng.random() < self.settings.fragments else text

    def _by_length(
        self, ids: Sequence[list[int]], labels: np.ndarray | None = None
    ) -> Iterator[Batch]:
        """Batches of at most batch_tokens, sequences of like length together, the longest first.

        Lengths are padded to a multiple of LENGTH_STEP and full batches of one length have equally
        many sequences: the matrix library compiles a kernel for every shape it meets, and a few
        shapes that come again are several times faster than a new one each step.
        """
        order = sorted(range(len(ids)), key=lambda i: -len(ids[i]))
        start = 0
        while start < len(order):
            length = self._padded(len(ids[order[start]]))
            count = max(1, self.settings.batch_tokens // length)
            yield self._pad(ids, order[start : start + count], length, labels)
            start += count

    def _padded(self, length: int) -> int:
        """A length rounded up to a step, not beyond what the model takes."""
        steps = -(-length // LENGTH_STEP) * LENGTH_STEP
        return max(length, min(steps, self.settings.max_tokens))

    def _pad(
        self, ids: Sequence[list[int]], chosen: list[int], length: int, labels: np.ndarray | None
    ) -> Batch:
        input_ids = np.full((len(chosen), length), self.pad_id, dtype=np.int64)
        mask = np.zeros_like(input_ids)
        for row, i in enumerate(chosen):
            input_ids[row, : len(ids[i])] = ids[i]
            mask[row, : len(ids[i])] = 1
        return Batch(input_ids, mask, None if labels is None else labels[chosen])

    @staticmethod
    def _shuffled(batches: Iterator[Batch], rng: np.random.Generator) -> Iterator[Batch]:
        made = list(batches)
        for i in rng.permutation(len(made)):
            yield made[i]


def open_reader(
    folder: Path, corpus: Corpus, kind: str, settings: TextSettings, pad_id: int, seed: int
) -> Reader:
    """A reader with the tokenizer of a model's folder.

    Raises:
        UserError: the folder has no tokenizer.json, or none that can be read.
    """
    file = folder / "tokenizer.json"
    if not file.exists():
        raise UserError(f"{folder} has no tokenizer.json; save the model with its tokenizer.")
    return Reader(corpus, kind, open_tokenizer(file), settings, pad_id, seed)


def text_by_text(batches: Iterable[Batch]) -> list[Batch]:
    """The same texts one at a time, without padding."""
    return [
        Batch(ids[mask == 1][None], mask[mask == 1][None])
        for batch in batches
        for ids, mask in zip(batch.input_ids, batch.attention_mask, strict=True)
    ]
