"""A chat that goes on: its messages, and a cache that reads only what is new of each turn."""

from collections.abc import Iterator, Mapping
from typing import Any

from edgeprune.base.errors import UserError
from edgeprune.runtime.generate import Generator
from edgeprune.runtime.reading import Reading
from edgeprune.runtime.sampling import Sampling


class Conversation:
    """The turns of one chat with a model. For one thread at a time."""

    def __init__(
        self, model: Generator, system: str | None = None, context_budget: int | None = None
    ) -> None:
        """
        Args:
            system: what the model is told before the first turn.
            context_budget: tokens that a turn may have, the answer to come included. Where it has
                more, the oldest rounds are forgotten whole, until half of the budget is enough; so
                the rest is read again once in a while, and at places of its own.
        """
        self._model, self._budget = model, context_budget
        self._opening = [{"role": "system", "content": system}] if system else []
        self.reset()

    def reset(self) -> None:
        """Forget all turns."""
        self.messages: list[Mapping[str, Any]] = list(self._opening)
        self._reading = Reading(self._model.decoder)
        self.kept = 0
        """Tokens of the last turn's prompt that had been read before."""
        self.forgotten = 0
        """Messages that were forgotten to stay within the budget."""

    def say(self, text: str, sampling: Sampling | None = None) -> Iterator[str]:
        """The model's answer to the next message, piece by piece.

        An answer that is not read to its end is remembered as far as it was. What `sampling` leaves
        open is as the model's generation_config.json has it.

        Raises:
            UserError: the chat fills the model's maximum, the message alone fills the budget, or
                the chat's template fails; the message is forgotten.
        """
        whole = self._model.chat_sampling(sampling)
        every = [*self.messages, {"role": "user", "content": text}]
        asked, prompt = self._within(every, whole.max_tokens)
        answer = self._model.answer(prompt, whole, self._reading)
        self.forgotten += len(every) - len(asked)
        self.kept = answer.kept
        said = ""
        self.messages = asked
        try:
            for piece in answer:
                said += piece.text
                yield piece.text
        finally:
            self.messages = [*asked, {"role": "assistant", "content": said}]

    def _within(
        self, asked: list[Mapping[str, Any]], answer_tokens: int
    ) -> tuple[list[Mapping[str, Any]], list[int]]:
        """The messages that are kept of a turn's, and their token ids."""
        ids = self._model.chat_ids(asked)
        if self._budget is None or len(ids) + answer_tokens <= self._budget:
            return asked, ids
        opening, rounds = asked[: len(self._opening)], asked[len(self._opening) :]
        # A round is a message and its answer; the last message has none yet.
        while len(rounds) > 1 and len(ids) + answer_tokens > self._budget // 2:
            rounds = rounds[2:]
            ids = self._model.chat_ids([*opening, *rounds])
        if len(ids) + answer_tokens > self._budget:
            raise UserError(
                f"The message has {len(ids):,} tokens with what stands before it, its answer up to "
                f"{answer_tokens:,}, and the budget is {self._budget:,}: shorten it, ask for fewer "
                "tokens, or raise the budget."
            )
        return [*opening, *rounds], ids
