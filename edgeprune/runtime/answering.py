"""The face that runtime classes share which give a text an answer of its own."""

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from edgeprune.runtime.bundle import Bundle
from edgeprune.runtime.tokenize import Tokenizer, Tokens


class Answering(Protocol):
    """A model that gives each text an answer."""

    bundle: Bundle
    tokenizer: Tokenizer
    default_batch: int | None
    """Texts in a call where no number is asked for; None: as many as are fast together."""

    def answers(self, encoded: Sequence[Tokens], batch_size: int | None = None) -> list[Any]:
        """An answer in plain JSON values for each text, which is tokenized already."""

    def line(self, answer: Any) -> str:
        """An answer as a line for people."""

    def named(self, answer: Any) -> Mapping[str, Any]:
        """An answer as the values of a JSON object."""
