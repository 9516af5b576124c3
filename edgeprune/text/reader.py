"""Batches of a text: drawn without end for training, plainly for the held-out loss, and by the
text's sampler for calibration. The same seed gives the same batches."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from tokenizers import Encoding, Tokenizer

from edgeprune.text.balance import Evened, balanced_rows, shares
from edgeprune.text.batches import Batch, Shape, Tokens, by_length
from edgeprune.text.corpus import Corpus
from edgeprune.text.pair_template import PairTemplate
from edgeprune.text.pairs import Document
from edgeprune.text.samplers import from_clusters, share_out
from edgeprune.text.settings import TextSettings

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
    template: PairTemplate | None = None
    """The text that stands around a pair, where the model reads one."""

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
        if self.template is not None:
            self.tokenizer.no_padding()
            self.tokenizer.no_truncation()
            end, whole = self.template.end(self.tokenizer), map(self.template.joined, texts)
            most = self.template.room(self.tokenizer, self.settings.max_tokens)
            self.tokenizer.enable_truncation(most)
            found = self.tokenizer.encode_batch(list(whole), add_special_tokens=False)
            return [Tokens(ids := [*each.ids, *end], [0] * len(ids)) for each in found]
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


def shuffled(batches: Iterator[Batch], rng: np.random.Generator) -> Iterator[Batch]:
    """The same batches in another order."""
    made = list(batches)
    for index in rng.permutation(len(made)):
        yield made[index]
