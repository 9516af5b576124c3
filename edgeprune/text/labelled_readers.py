"""Readers of texts with a truth each: labels or a score, labelled words, or answers."""

from collections.abc import Iterator, Sequence

import numpy as np
from tokenizers import Encoding

from edgeprune.text.answers import cut_into_windows, token_span, windows
from edgeprune.text.balance import Evened, rarest, rounds
from edgeprune.text.batches import Batch, Tokens, by_length
from edgeprune.text.corpus import Corpus
from edgeprune.text.pairs import Document
from edgeprune.text.reader import Reader, shuffled
from edgeprune.text.tags import token_labels


class LabelledReader(Reader):
    """Whole texts or pairs of texts, each with its truth: a label, labels or a score."""

    def held_out_batches(self) -> list[Batch]:
        return list(self._labelled(self.held_out, np.array(self._held_out())))

    def _training(self, rng: np.random.Generator) -> Iterator[Batch]:
        every, by = self._evened(self.train)
        for rows in rounds(len(every), by, self._sequences_in_pool, rng):
            yield from shuffled(self._labelled(self.train, rows), rng)

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
