"""The text of a build: opened once, and split once into what trains, what chooses among the trained
weights, and what is measured."""

import functools
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgeprune.base.errors import UserError
from edgeprune.text.balance import label_counts
from edgeprune.text.corpus import Corpus
from edgeprune.text.masks import mask_token
from edgeprune.text.pair_template import read_pair_template
from edgeprune.text.prompts import read_library
from edgeprune.text.reader import Reader
from edgeprune.text.readers import READERS
from edgeprune.text.settings import TextSettings
from edgeprune.text.sources import read_corpus
from edgeprune.text.tokenizer_file import open_tokenizer


@dataclass(frozen=True)
class Text:
    """A corpus with its settings and seed, which decide the split and every batch.

    reads: how the task takes text, a name in READERS. vocabulary: further texts, whose tokens are
    kept beside those of the training part when the vocabulary is trimmed.
    """

    corpus: Corpus
    reads: str
    settings: TextSettings
    seed: int
    vocabulary: Corpus | None = None

    @property
    def train(self) -> Corpus:
        """The documents that stages train and calibrate on."""
        return self._parts[0]

    @property
    def held_out(self) -> Corpus:
        """The documents that no stage trains on, and that choose the best weights."""
        return self._parts[1]

    @property
    def measured(self) -> Corpus:
        """The documents that neither train nor choose: quality on the ones that choose is the best
        of several tries, and so too good."""
        return self._parts[2]

    @property
    def source(self) -> str:
        """The source of the corpus, as the user named it."""
        return self.corpus.source

    @functools.cached_property
    def digest(self) -> str:
        """A hash of the corpus; the further texts of the vocabulary have their own."""
        return self.corpus.digest

    def facts(self) -> dict[str, Any]:
        """The text in a record: plain JSON values."""
        found: dict[str, Any] = {
            "source": self.source,
            "documents": len(self.corpus.documents),
            "digest": self.digest,
        }
        if self.languages:
            found["languages"] = self.languages
        if self.reads == "sentences":
            sentences = self.corpus.sentences
            found |= {"sentences": len(sentences.texts), "left_out": sentences.left_out}
        return found

    @functools.cached_property
    def languages(self) -> dict[str, int]:
        """The number of texts of each language, the commonest first; empty where there is one."""
        counts = Counter(self.corpus.languages)
        return dict(counts.most_common()) if len(counts) > 1 else {}

    @property
    def line(self) -> str:
        """The text in a line for people."""
        pairs = any(not isinstance(document, str) for document in self.corpus.documents)
        noun = "pairs of texts" if pairs else "texts"
        line = f"{len(self.corpus.documents):,} {noun} from {self.source}"
        if self.languages:
            line += f" ({', '.join(f'{name} {n:,}' for name, n in self.languages.items())})"
        if counts := sorted(label_counts(self.corpus.labels or ()).values()):
            least = f"{counts[0]:,} to " if counts[0] < counts[-1] else ""
            return f"{line}: {len(counts):,} labels of {least}{counts[-1]:,} texts"
        if self.reads != "sentences":
            return line
        sentences = self.corpus.sentences
        left_out = ", ".join(f"{count:,} {why}" for why, count in sentences.left_out.items())
        return f"{line}: {len(sentences.texts):,} sentences; left out: {left_out or 'nothing'}"

    def reader(self, folder: Path, pad_id: int = 0, typed: bool = True) -> Reader:
        """Batches of what trains and what chooses, in the tokens of a model's folder.

        Args:
            typed: whether its tokenizer tells of which of a pair's texts each token is.

        Raises:
            UserError: the folder has no tokenizer.json, one that is damaged, or one without a token
            that masks where the task needs it.
        """
        file = folder / "tokenizer.json"
        if not file.exists():
            raise UserError(f"{folder} has no tokenizer.json; save the model with its tokenizer.")
        tokenizer, reader = open_tokenizer(file), READERS[self.reads]
        before = read_library(folder).prompt() if self.reads == "sentences" else ""
        mask_id = mask_token(folder, tokenizer)[1] if self.reads == "masked" else 0
        return reader(
            self.train,
            self.held_out,
            self.settings,
            self.seed,
            tokenizer,
            pad_id,
            before,
            typed,
            mask_id,
            read_pair_template(folder),
        )

    @functools.cached_property
    def _parts(self) -> tuple[Corpus, Corpus, Corpus]:
        train, held = self.corpus.split(self.settings.held_out, self.seed, least=2)
        # A language of which a single document is held out is measured rather than chosen by.
        measured, choosing = held.split(0.5, self.seed)
        return train, choosing, measured


def open_text(
    settings: TextSettings,
    reads: str,
    seed: int,
    labels: Sequence[str] | None = None,
    vocabulary: Sequence[str] = (),
) -> Text:
    """Read everything that a build learns from.

    Args:
        reads: how the task takes text, a name in READERS.
        labels: the names of the labels that a model knows, where it reads labelled text.
        vocabulary: sources of further texts whose tokens are kept.

    Raises:
        UserError: a source is missing, empty or not text, or its rows lack a field.
    """
    corpus = read_corpus(
        settings.data,
        labels,
        settings.group_field,
        settings.fields,
        settings.language,
        reads,
    )
    further = read_corpus(vocabulary) if vocabulary else None
    return Text(corpus, reads, settings, seed, further)
