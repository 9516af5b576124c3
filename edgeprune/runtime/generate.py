"""Generate text with a decoder bundle: greedy or sampled, streamed as it comes."""

from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property

import numpy as np
from pydantic import Field

from edgeprune.base.errors import UserError
from edgeprune.base.progress import say
from edgeprune.base.settings import Settings
from edgeprune.runtime.bundle import Bundle
from edgeprune.runtime.cache import Decoder
from edgeprune.runtime.chat import apply_chat_template
from edgeprune.runtime.finite import finite_logits
from edgeprune.runtime.logits import softmax
from edgeprune.runtime.session import bundle_session
from edgeprune.runtime.tokenize import Tokenizer
from edgeprune.text.chat_template import Message, chat_template

# A byte-level tokenizer decodes an incomplete character to this.
_INCOMPLETE = "\ufffd"


class Sampling(Settings):
    """The choice of the next token, and when to stop."""

    max_tokens: int = Field(default=256, ge=1, description="most tokens to generate")
    temperature: float = Field(
        default=0.0,
        ge=0.0,
        le=100.0,
        description="0 takes the likeliest token; higher is more random",
    )
    top_p: float = Field(
        default=1.0,
        gt=0.0,
        le=1.0,
        description="sample from the likeliest tokens of this total only",
    )
    seed: int = Field(default=0, ge=0, description="the same seed gives the same text")


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
        """Answer a chat, piece by piece, through the model's chat template."""
        # The template writes the special tokens itself.
        prompt = apply_chat_template(self.bundle, messages)
        return self._stream(self.tokenizer.ids(prompt, special_tokens=False), sampling)

    def complete(self, text: str, sampling: Sampling | None = None) -> Iterator[str]:
        """Continue plain text, piece by piece."""
        return self._stream(self.tokenizer.ids(text), sampling)

    def generate_ids(
        self, prompt: Sequence[int], sampling: Sampling | None = None
    ) -> Iterator[int]:
        """Token ids after a prompt, until the model stops, `max_tokens`, or the model's maximum.

        Raises:
            UserError: the prompt is empty or fills the model's maximum.
            ModelFault: the model returns NaN or infinity.
        """
        sampling = sampling or Sampling()
        room = self._room(prompt)
        random = np.random.default_rng(sampling.seed)
        decoding = self.decoder.start()
        ids, fed = list(prompt), 0
        for _ in range(min(sampling.max_tokens, room)):
            # Without a cache, every step feeds the whole sequence.
            logits = decoding.feed(ids[fed:], last_only=True)[0, -1]
            fed = len(ids) if self.decoder.has_cache else 0
            chosen = choose(finite_logits(logits, self.bundle), sampling, random)
            if chosen in self.stop_ids:
                return
            ids.append(chosen)
            yield chosen

    def logits(self, ids: Sequence[int]) -> np.ndarray:
        """Logits of every token of a sequence, [tokens, vocabulary] float32.

        Raises:
            UserError: the sequence is longer than the model takes, or the graph returns only the
                last token's logits.
        """
        self._room(ids, more=0)
        logits = self.decoder.start().feed(ids)[0]
        if len(logits) != len(ids):
            raise UserError(f"{self.bundle.folder} gives logits of the last token only.")
        return finite_logits(logits, self.bundle)

    def _stream(self, prompt: Sequence[int], sampling: Sampling | None) -> Iterator[str]:
        self._room(prompt)  # refuse a prompt that is too long before printing anything
        return stream_text(self.tokenizer, self.generate_ids(prompt, sampling))

    def _room(self, prompt: Sequence[int], more: int = 1) -> int:
        """The number of tokens that may follow the prompt."""
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


def choose(logits: np.ndarray, sampling: Sampling, random: np.random.Generator) -> int:
    """The next token's id from its logits [vocabulary].

    Above temperature 0 it is drawn from the smallest set of likeliest tokens whose probability
    reaches top_p (nucleus sampling, Holtzman et al., 2020).
    """
    if sampling.temperature == 0:
        return int(logits.argmax())
    scores = logits.astype(np.float64)
    probabilities = softmax((scores - scores.max()) / sampling.temperature)
    order = np.argsort(-probabilities, kind="stable")
    reached = np.cumsum(probabilities[order])
    kept = order[: int(np.searchsorted(reached, sampling.top_p * reached[-1])) + 1]
    weights = probabilities[kept] / probabilities[kept].sum()
    return int(random.choice(kept, p=weights))


def stream_text(tokenizer: Tokenizer, ids: Iterable[int]) -> Iterator[str]:
    """Pieces of text as tokens arrive; a character of several tokens waits until it is complete.

    Each piece is the text that its tokens add to a few earlier ones, because tokenizers decode a
    token differently at the start of a text. The cost per token does not grow with the text.
    """
    recent: list[int] = []  # tokens of the last piece, then those not yet written
    written = 0  # how many of `recent` belong to the last piece
    for token in ids:
        recent.append(token)
        piece = _gain(tokenizer, recent, written)
        if piece and not piece.endswith(_INCOMPLETE):
            yield piece
            recent, written = recent[written:], len(recent) - written
    if rest := _gain(tokenizer, recent, written):
        yield rest


def _gain(tokenizer: Tokenizer, ids: Sequence[int], written: int) -> str:
    return tokenizer.text(ids)[len(tokenizer.text(ids[:written])) :]
