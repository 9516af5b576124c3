"""A corpus: documents in order, with their labels and groups where they have them."""

import functools
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from edgeprune.base.errors import UserError
from edgeprune.text.languages import languages
from edgeprune.text.pairs import Document, texts_of
from edgeprune.text.sentences import Sentences, split_sentences


@dataclass(frozen=True)
class Corpus:
    """Documents in order, each with a label or a group where the source has them.

    documents: texts, or pairs of texts. labels: a number each; of documents of words with a space
    between, a list of one of each word.
    language: the ISO 639 code of their language, where it is known to be one.
    named: the language of each, None of those of which the source does not say.
    together: a name for each; documents of one name, such as those judged for one query, are not
    parted by a split.
    """

    source: str
    documents: Sequence[Document]
    labels: list[Any] | None = None
    groups: list[str] | None = None
    language: str | None = None
    named: list[str | None] | None = None
    together: list[str] | None = None

    @functools.cached_property
    def languages(self) -> list[str]:
        """The language of each document: as it is named, or by its script."""
        if self.language is not None:
            return [self.language] * len(self.documents)
        return languages([" ".join(texts_of(each)) for each in self.documents], self.named)

    @functools.cached_property
    def sentences(self) -> Sentences:
        """The sentences that an encoder learns from, and counts of what they leave out."""
        return split_sentences(self.texts, self.language)

    @property
    def texts(self) -> list[str]:
        """Every text, those of pairs one by one."""
        return [text for document in self.documents for text in texts_of(document)]

    @property
    def digest(self) -> str:
        """A hash of the content, for the keys of kept results."""
        content = hashlib.sha256()
        for number, document in enumerate(self.documents):
            label = "" if self.labels is None else self.labels[number]
            content.update("\0".join((str(label), *texts_of(document), "")).encode())
            if self.groups is not None:
                content.update(f"{self.groups[number]}\0".encode())
            if self.named is not None:
                content.update(f"{self.named[number]}\0".encode())
        return content.hexdigest()[:16]

    def split(self, share: float, seed: int, least: int = 1) -> tuple["Corpus", "Corpus"]:
        """Training and held-out documents; round(share * n) are held out, and at least `least`. Of
        several languages, so many of each and at least one, but for those of a single document.
        Where documents stay together, as many as come nearest to that, and `least` such units.

        Raises:
            UserError: there are no more documents, or units of them, than that.
        """
        count = len(self.documents)
        if count <= least:
            raise UserError(
                f"{self.source} holds too few texts; give at least {least + 1}, so that some "
                "can be held out for choosing checkpoints and for measuring them."
            )
        units = np.arange(count)
        if self.together is not None:
            _, first, unit = np.unique(self.together, return_index=True, return_inverse=True)
            units = first[unit]
            if len(first) <= least:
                raise UserError(
                    f"{self.source} holds documents of too few queries; give those of at least "
                    f"{least + 1}, so that some can be held out for choosing checkpoints and for "
                    "measuring them."
                )
        rng = np.random.default_rng(seed)
        names = np.array(self.languages)[units]
        known = np.unique(names)
        if len(known) == 1:
            held, trained = _parted(rng.permutation(count), units, share, least)
            return self._take(trained), self._take(held)
        # What a language is called depends on the other documents: the parts keep it.
        whole = replace(self, named=[*self.languages])
        train: list[int] = []
        held_out: list[int] = []
        for name in known:
            order = rng.permutation(np.flatnonzero(names == name))
            held, trained = _parted(order, units, share)
            train += trained.tolist()
            held_out += held.tolist()
        while len(np.unique(units[held_out])) < least:
            last = units[train[-1]]
            held_out += [row for row in train if units[row] == last]
            train = [row for row in train if units[row] != last]
        return whole._take(rng.permutation(train)), whole._take(rng.permutation(held_out))

    def _take(self, index: np.ndarray) -> "Corpus":
        labels = None if self.labels is None else [self.labels[i] for i in index]
        groups = None if self.groups is None else [self.groups[i] for i in index]
        named = None if self.named is None else [self.named[i] for i in index]
        together = None if self.together is None else [self.together[i] for i in index]
        documents = [self.documents[i] for i in index]
        return Corpus(self.source, documents, labels, groups, self.language, named, together)

    def by_group(self) -> dict[str, "Corpus"]:
        """The documents of each group, in the order in which groups first appear; a corpus without
        groups is one group, named 1."""
        return {"1": self} if self.groups is None else self._by_name(self.groups)

    @functools.cached_property
    def by_language(self) -> dict[str, "Corpus"]:
        """The documents of each language, in the order in which languages first appear."""
        return self._by_name(self.languages)

    def _by_name(self, names: list[str]) -> dict[str, "Corpus"]:
        members: dict[str, list[int]] = {}
        for index, name in enumerate(names):
            members.setdefault(name, []).append(index)
        return {name: self._take(np.array(indices)) for name, indices in members.items()}


def _parted(
    order: np.ndarray, units: np.ndarray, share: float, least: int = 1
) -> tuple[np.ndarray, np.ndarray]:
    """Held-out rows, and the others: of the rows in `order` the first units, whose number of rows
    comes nearest to the share; at least one is not held out, no unit is parted, and a single one is
    not held out.

    Args:
        units: of every row, the number of its unit.
        least: units that are held out at least, where there are more.
    """
    found, first, sizes = np.unique(units[order], return_index=True, return_counts=True)
    if len(found) < 2:
        return order[:0], order
    turns = np.argsort(first)
    ends = np.cumsum(sizes[turns])[min(least, len(found) - 1) - 1 : -1]
    held = ends[np.abs(ends - max(1, round(share * len(order)))).argmin()]
    place = np.empty(int(units.max()) + 1, np.int64)
    place[found[turns]] = np.arange(len(found))
    whole = order[np.argsort(place[units[order]], kind="stable")]
    return whole[:held], whole[held:]
