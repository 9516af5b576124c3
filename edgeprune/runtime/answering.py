"""The interface of runtime classes that give each text an answer of its own."""

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from edgeprune.runtime.bundle import Bundle
from edgeprune.runtime.tokenize import Tokenizer
from edgeprune.text.batches import Tokens


class Answering(Protocol):
    """A model that gives each text an answer."""

    bundle: Bundle
    tokenizer: Tokenizer
    default_batch: int | None
    """Texts in a call if no batch size is given; None: as many as run fast together."""

    def answers(self, encoded: Sequence[Tokens], batch_size: int | None = None) -> list[Any]:
        """An answer in plain JSON values for each tokenized text."""

    def line(self, answer: Any) -> str:
        """An answer as a line for people."""

    def named(self, answer: Any) -> Mapping[str, Any]:
        """An answer as the values of a JSON object."""
