"""Generate text with a decoder bundle: greedy or sampled, streamed as it comes."""

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
    def default_batch(self) -> int | None:
        """The texts that are generated at once unless a caller says more: one where they could
        change each other's tokens; None: as many as there are."""
        return None if self.decoder.together and self.decoder.drafts else 1

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
        self, prompt: Sequence[int], sampling: Sampling, reading: Reading
    ) -> Iterator[Written]:
        """The tokens after a prompt as they are chosen; see `answer`."""
        writing = Writing(self, prompt, sampling)
        writing.begin(reading)
        while writing.reason is None:
            yield from writing.advance(reading)

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


class Writing:
    """The tokens after a prompt: which are read next, and which is chosen after them. Whoever reads
    them may do it alone (`advance`) or together with those of others (`choose`)."""

    def __init__(
        self,
        model: Generator,
        prompt: Sequence[int],
        sampling: Sampling,
        top_logprobs: int | None = None,
    ) -> None:
        self._model, self._prompt, self._top_logprobs = model, prompt, top_logprobs
        self._left = min(sampling.max_tokens, model.room(prompt))
        self._sampler = Sampler(sampling, prompt)
        looks = sampling.lookup == "auto" and model.decoder.drafts
        self._lookup = Lookup(prompt) if looks else None
        self.unread: list[int] = []
        """Tokens to be read before the next choice."""
        self.reason: Reason | None = None
        """Why the text ended; None before it has."""

    def begin(self, reading: Reading) -> None:
        """Leave of the prompt only what is not held."""
        self.unread = list(self._prompt[reading.keep(self._prompt) :])

    def advance(self, reading: Reading) -> list[Written]:
        """Read what is unread, with drafts where they pay, in one call; the tokens chosen.

        Raises:
            ModelFault: the graph fails, or returns NaN or infinity.
        """
        drafted: list[int] = []
        if self._lookup is not None and len(self.unread) == 1:
            drafted = self._lookup.draft()[: self._left - 1]
        rows = reading.read([*self.unread, *drafted], len(drafted) + 1)
        found: list[Written] = []
        # A row counts as long as all that was drafted before it is what was chosen.
        for accepted, logits in enumerate(rows):
            found += self.choose(logits)
            if self.reason == "stop" or drafted[accepted : accepted + 1] != self.unread:
                break
        reading.cut(len(reading.ids) - len(drafted) + accepted)
        if self._lookup is not None:
            self._lookup.learn(len(drafted), accepted)
        return found

    def choose(self, logits: np.ndarray) -> list[Written]:
        """The token after all that was read, by its logits [vocabulary]; none at the text's end.

        Raises:
            ModelFault: they are NaN or infinite.
        """
        try:
            chosen = self._sampler.choose(logits)
        except NotFinite:
            raise fault("logits", self._model.bundle) from None
        self.unread = [chosen]
        if chosen in self._model.stop_ids:
            self.reason = "stop"
            return []
        if self._lookup is not None:
            self._lookup.add(chosen)
        self._left -= 1
        if not self._left:
            self.reason = "length"
        return [_told(chosen, logits, self._top_logprobs)]


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
        # Refuses a prompt that is too long before anything is printed.
        self._writing = Writing(model, prompt, sampling, top_logprobs)
        self._text, self._stops = _TextOfTokens(model.tokenizer), Stops(sampling.stop)
        self._untold: list[Written] = []
        self._tells = top_logprobs is not None
        self.reading = reading or Reading(model.decoder)
        self.prompt = prompt
        self.kept = min(self.reading.shared(prompt), len(prompt) - 1)
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
        self.begin()
        while self.reason is None:
            yield from self.advance()

    def begin(self) -> None:
        """Find what of the prompt is to be read, for those that read it in parts."""
        self._writing.begin(self.reading)

    @property
    def unread(self) -> list[int]:
        """Tokens to be read before the next is chosen."""
        return self._writing.unread

    def prepare(self, tokens: int) -> None:
        """Read the first so many of those that are unread, of which more are left.

        Raises:
            ModelFault: the graph fails.
        """
        self.reading.read(self.unread[:tokens])
        self._writing.unread = self.unread[tokens:]

    def advance(self) -> list[Piece]:
        """One call of the model: the pieces that it brings, the last of them at the text's end.

        Raises:
            ModelFault: the graph fails, or returns NaN or infinity.
        """
        return self._pieces(self._writing.advance(self.reading))

    def choose(self, logits: np.ndarray) -> list[Piece]:
        """The same of what was read elsewhere, by the last token's logits [vocabulary]."""
        return self._pieces(self._writing.choose(logits))

    def _pieces(self, chosen: Sequence[Written]) -> list[Piece]:
        found = []
        for written in chosen:
            self.tokens += 1
            self._untold.append(written)
            shown = self._stops.shown(self._text.add(written.id))
            found.append(self._piece(shown))
            if self._stops.found:
                self.reason = "stop"
                return found
        if self._writing.reason is not None:
            rest = self._stops.shown(self._text.rest())
            self.reason = "stop" if self._stops.found else self._writing.reason
            rest += self._stops.rest()
            if rest or (self._untold and self._tells):
                found.append(Piece(rest, tuple(self._untold)))
        return found

    def _piece(self, shown: str) -> Piece:
        """Text, with the tokens that brought it."""
        if not shown:
            return Piece("", ())
        told, self._untold = tuple(self._untold), []
        return Piece(shown, told)


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
