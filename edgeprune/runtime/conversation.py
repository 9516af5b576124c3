"""A chat that goes on: its messages, and a cache that reads only what is new of each turn."""

from collections.abc import Iterator, Mapping
from typing import Any

from edgeprune.runtime.generate import Generator
from edgeprune.runtime.reading import Reading
from edgeprune.runtime.sampling import Sampling


class Conversation:
    """The turns of one chat with a model. For one thread at a time."""

    def __init__(self, model: Generator, system: str | None = None) -> None:
        """`system` is what the model is told before the first turn."""
        self._model = model
        self._opening = [{"role": "system", "content": system}] if system else []
        self.reset()

    def reset(self) -> None:
        """Forget all turns."""
        self.messages: list[Mapping[str, Any]] = list(self._opening)
        self._reading = Reading(self._model.decoder)
        self.kept = 0
        """Tokens of the last turn's prompt that had been read before."""

    def say(self, text: str, sampling: Sampling | None = None) -> Iterator[str]:
        """The model's answer to the next message, piece by piece.

        An answer that is not read to its end is remembered as far as it was. What `sampling` leaves
        open is as the model's generation_config.json has it.

        Raises:
            UserError: the chat fills the model's maximum, or its template fails; the message is
                forgotten.
        """
        asked = [*self.messages, {"role": "user", "content": text}]
        answer = self._model.answer(
            self._model.chat_ids(asked), self._model.chat_sampling(sampling), self._reading
        )
        self.kept = answer.kept
        said = ""
        self.messages = asked
        try:
            for piece in answer:
                said += piece.text
                yield piece.text
        finally:
            self.messages = [*asked, {"role": "assistant", "content": said}]
