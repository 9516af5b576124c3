"""Generate text with a decoder bundle: greedy or sampled, streamed as it comes."""

from collections.abc import Generator as Steps
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import numpy as np

from edgeprune.base.errors import UserError
from edgeprune.base.progress import say
from edgeprune.runtime.bundle import Bundle
from edgeprune.runtime.cache import Decoder
from edgeprune.runtime.chat import apply_chat_template
from edgeprune.runtime.finite import fault, finite_logits
from edgeprune.runtime.logits import likeliest, log_probabilities
from edgeprune.runtime.lookup import Lookup
from edgeprune.runtime.reading import Reading
from edgeprune.runtime.sampling import NotFinite, Sampler, Sampling, own_sampling
from edgeprune.runtime.session import bundle_session
from edgeprune.runtime.tokenize import Tokenizer
from edgeprune.text.chat_template import Message, chat_template
from edgeprune.text.stops import Stops

# A byte-level tokenizer decodes an incomplete character to this.
_INCOMPLETE = "\ufffd"

Reason = Literal["stop", "length"]
"""Why an answer ended: by the model or a stop string; or at `max_tokens` or the model's maximum."""


@dataclass(frozen=True)
class Written:
    """A token of an answer."""

    id: int
    log_probability: float | None = None
    """In nats, of the model's own distribution; None unless it was asked for."""
    likeliest: tuple[tuple[int, float], ...] = ()
    """As many of the likeliest tokens as were asked for, with theirs."""


@dataclass(frozen=True)
class Piece:
    """Some of an answer's text, and the tokens that brought it."""

    text: str
    tokens: tuple[Written, ...]


class Generator:
    """A decoder: `chat` with it, or `complete` plain text.

    Several answers may be read alternately, and in several threads: each has a cache of its own.
    """

    def __init__(self, bundle: Bundle, threads: int | None = None) -> None:
        self.bundle = bundle
        self.tokenizer = Tokenizer(bundle)
        self.session = bundle_session(bundle, threads)
        self.decoder = Decoder(self.session, bundle.config)

    @cached_property
    def stop_ids(self) -> frozenset[int]:
        """Ids of the tokens that end a text, from the first of the bundle's files to name any."""
        named = {"eos_token_id": self.tokenizer.eos_id}
        for settings in (self.bundle.generation_config, self.bundle.config, named):
            stated = settings.get("eos_token_id")
            ids = stated if isinstance(stated, list) else [stated]
            if known := frozenset(token for token in ids if type(token) is int and token >= 0):
                return known
        say(
            f"Warning: {self.bundle.folder} names no token that ends a text (eos_token_id of its "
            "configuration, eos_token of its tokenizer): every answer runs to its maximum."
        )
        return frozenset()

    @property
    def has_chat_template(self) -> bool:
        return chat_template(self.bundle.folder, self.bundle.tokenizer_config) is not None

    def chat(self, messages: Sequence[Message], sampling: Sampling | None = None) -> Iterator[str]:
        """Answer a chat, piece by piece, through the model's chat template.

        What `sampling` leaves open is as the model's generation_config.json has it.
        """
        answer = self.answer(self.chat_ids(messages), self.chat_sampling(sampling))
        return (piece.text for piece in answer)

    def complete(self, text: str, sampling: Sampling | None = None) -> Iterator[str]:
        """Continue plain text, piece by piece."""
        answer = self.answer(self.tokenizer.ids(text), sampling)
        return (piece.text for piece in answer)

    def chat_ids(
        self, messages: Sequence[Message], tools: Sequence[Mapping[str, Any]] = ()
    ) -> list[int]:
        """Token ids of a chat up to the model's answer; `tools` are those that it may call."""
        # The template writes the special tokens itself.
        prompt = apply_chat_template(self.bundle, messages, tools)
        return self.tokenizer.ids(prompt, special_tokens=False)

    def chat_sampling(self, given: Sampling | None = None) -> Sampling:
        """The settings that were given, and the model's own where they leave any open.

        Raises:
            UserError: generation_config.json has a value that is none.
        """
        source = self.bundle.folder / "generation_config.json"
        return own_sampling(self.bundle.generation_config, given, source)

    def answer(
        self,
        prompt: Sequence[int],
        sampling: Sampling | None = None,
        reading: Reading | None = None,
        top_logprobs: int | None = None,
    ) -> "Answer":
        """The text that follows a prompt's token ids, to be iterated over.

        Args:
            reading: what was read before: of the prompt only the rest is read, and it goes on with
                the answer.
            top_logprobs: tell the log-probability of each token, and of so many of the likeliest.

        Raises:
            UserError: the prompt is empty or fills the model's maximum.
        """
        return Answer(self, prompt, sampling or Sampling(), reading, top_logprobs)

    def generate_ids(
        self, prompt: Sequence[int], sampling: Sampling | None = None
    ) -> Iterator[int]:
        """Token ids after a prompt, until the model stops, `max_tokens`, or the model's maximum.

        Raises:
            UserError: the prompt is empty or fills the model's maximum.
            ModelFault: the model returns NaN or infinity.
        """
        reading = Reading(self.decoder)
        for written in self.steps(prompt, sampling or Sampling(), reading):
            yield written.id

    def steps(
        self,
        prompt: Sequence[int],
        sampling: Sampling,
        reading: Reading,
        top_logprobs: int | None = None,
    ) -> Steps[Written, None, Reason]:
        """The tokens after a prompt as they are chosen, and why they end; see `answer`."""
        left = min(sampling.max_tokens, self.room(prompt))
        sampler = Sampler(sampling, prompt)
        looks = sampling.lookup == "auto" and self.decoder.drafts
        lookup = Lookup(prompt) if looks else None
        unread = list(prompt[reading.keep(prompt) :])
        while left:
            drafted: list[int] = []
            if lookup is not None and len(unread) == 1:
                drafted = lookup.draft()[: left - 1]
            rows = reading.read([*unread, *drafted], len(drafted) + 1)
            # A row counts as long as all that was drafted before it is what was chosen.
            for accepted, logits in enumerate(rows):
                try:
                    chosen = sampler.choose(logits)
                except NotFinite:
                    raise fault("logits", self.bundle) from None
                if chosen in self.stop_ids:
                    return "stop"
                if lookup is not None:
                    lookup.add(chosen)
                left -= 1
                yield _told(chosen, logits, top_logprobs)
                if drafted[accepted : accepted + 1] != [chosen]:
                    break
            reading.cut(len(reading.ids) - len(drafted) + accepted)
            if lookup is not None:
                lookup.learn(len(drafted), accepted)
            unread = [chosen]
        return "length"

    def logits(self, ids: Sequence[int]) -> np.ndarray:
        """Logits of every token of a sequence, [tokens, vocabulary] float32.

        Raises:
            UserError: the sequence is longer than the model takes, or the graph returns only the
                last token's logits.
        """
        self.room(ids, more=0)
        logits = self.decoder.start().feed(ids)[0]
        if len(logits) != len(ids):
            raise UserError(f"{self.bundle.folder} gives logits of the last token only.")
        return finite_logits(logits, self.bundle)

    def room(self, prompt: Sequence[int], more: int = 1) -> int:
        """The number of tokens that may follow the prompt.

        Raises:
            UserError: the prompt is empty, or fewer than `more` may.
        """
        if not len(prompt):
            raise UserError("The prompt is empty: give the model some text.")
        if self.bundle.max_length is None:
            return 2**31
        room = self.bundle.max_length - len(prompt)
        if room < more:
            raise UserError(
                f"The text has {len(prompt):,} tokens and the model takes "
                f"{self.bundle.max_length:,}: shorten it."
            )
        return room


class Answer:
    """The text that follows a prompt: iterate over its pieces; each is generated when it is asked
    for."""

    def __init__(
        self,
        model: Generator,
        prompt: Sequence[int],
        sampling: Sampling,
        reading: Reading | None = None,
        top_logprobs: int | None = None,
    ) -> None:
        model.room(prompt)  # refuse a prompt that is too long before printing anything
        self._model, self._sampling, self._top_logprobs = model, sampling, top_logprobs
        self._reading = reading or Reading(model.decoder)
        self.prompt = prompt
        self.kept = min(self._reading.shared(prompt), len(prompt) - 1)
        """The number of the prompt's tokens that had been read before."""
        self.tokens = 0
        """Tokens generated so far."""
        self.reason: Reason | None = None
        """Why it ended; None before it has."""

    def __iter__(self) -> Iterator[Piece]:
        """Pieces in which every character is complete and none begins a stop string.

        Raises:
            ModelFault: the model returns NaN or infinity.
        """
        return (piece for piece in self.pieces() if piece.text or piece.tokens)

    def pieces(self) -> Iterator[Piece]:
        """The same, with an empty piece for each token that adds nothing that may be shown yet."""
        self.reason = yield from self._pieces()

    def _pieces(self) -> Steps[Piece, None, Reason]:
        text, stops = _TextOfTokens(self._model.tokenizer), Stops(self._sampling.stop)
        untold: list[Written] = []
        steps = self._model.steps(self.prompt, self._sampling, self._reading, self._top_logprobs)
        while True:
            try:
                written = next(steps)
            except StopIteration as end:
                reason: Reason = end.value
                break
            self.tokens += 1
            untold.append(written)
            shown = stops.shown(text.add(written.id))
            yield Piece(shown, tuple(untold) if shown else ())
            if shown:
                untold = []
            if stops.found:
                return "stop"
        rest = stops.shown(text.rest())
        if stops.found:
            reason = "stop"
        rest += stops.rest()
        if rest or (untold and self._top_logprobs is not None):
            yield Piece(rest, tuple(untold))
        return reason


def _told(chosen: int, logits: np.ndarray, top: int | None) -> Written:
    if top is None:
        return Written(chosen)
    ids = np.array([chosen, *(likeliest(logits, top) if top else ())])
    own, *others = log_probabilities(logits, ids).tolist()
    return Written(chosen, own, tuple(zip(ids[1:].tolist(), others, strict=True)))


class _TextOfTokens:
    """Text as tokens arrive; a character of several tokens waits until it is complete.

    Each piece is the text that its tokens add to a few earlier ones, because tokenizers decode a
    token differently at the start of a text. The cost per token does not grow with the text.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._recent: list[int] = []  # tokens of the last piece, then those not yet written
        self._written = 0  # how many of them belong to the last piece
        self._before = ""  # the text of these

    def add(self, token: int) -> str:
        """The text that is complete with one more token, which may be none."""
        self._recent.append(token)
        piece = self._tokenizer.text(self._recent)[len(self._before) :]
        if not piece or piece.endswith(_INCOMPLETE):
            return ""
        self._recent = self._recent[self._written :]
        self._written = len(self._recent)
        self._before = self._tokenizer.text(self._recent)
        return piece

    def rest(self) -> str:
        """The text that never became complete."""
        return self._tokenizer.text(self._recent)[len(self._before) :]


def stream_text(tokenizer: Tokenizer, ids: Iterable[int]) -> Iterator[str]:
    """Pieces of text as tokens arrive, in each of which every character is complete."""
    text = _TextOfTokens(tokenizer)
    yield from filter(None, map(text.add, ids))
    if rest := text.rest():
        yield rest
