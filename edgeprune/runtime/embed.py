"""Sentence embeddings from a bundle."""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np

from edgeprune.base.errors import UserError
from edgeprune.base.progress import say, say_once
from edgeprune.model.pooling import MAX, Pooling, pooled_tokens, token_weights
from edgeprune.model.projection import UnitLength, apply, unit_length
from edgeprune.runtime.batches import run_batches, usual_batch
from edgeprune.runtime.bundle import Bundle
from edgeprune.runtime.compact import Precision, compact
from edgeprune.runtime.finite import finite
from edgeprune.runtime.session import bundle_session
from edgeprune.runtime.tokenize import Text, Tokenizer
from edgeprune.text.batches import Tokens
from edgeprune.text.pairs import checked

_SHOWN_NUMBERS = 6


class Embedder:
    """A sentence encoder: `embed` texts, pooled and normalized as the bundle says."""

    def __init__(self, bundle: Bundle, threads: int | None = None) -> None:
        self.bundle = bundle
        self.tokenizer = Tokenizer(bundle)
        self.session = bundle_session(bundle, threads)
        self.default_batch = usual_batch(bundle.model_path)
        self._output, self._pooled = self._choose_output()
        stated, self._steps = bundle.pooling, bundle.steps
        if stated is None and not self._pooled:
            say_once("The model does not say how to pool its tokens: taking their mean.")
        self._pooling = stated or Pooling()
        if self._pooled:  # by all modules, and some exporters leave out the last
            self._steps = tuple(step for step in self._steps if isinstance(step, UnitLength))

    def embed(
        self,
        texts: Sequence[Text],
        batch_size: int | None = None,
        prompt: str | None = None,
        chunk: bool = False,
        precision: Precision = "float32",
    ) -> np.ndarray:
        """Embeddings of texts, [texts, size] float32; in fewer bytes, as `compact` has them, by
        another `precision`.

        Without a batch size, texts of similar length run together, or one by one if the graph would
        let them change each other's scales (batches.py).

        Args:
            prompt: the name of the prompt to put before each text, of those that the model has;
                None: its usual one, if it has one.
            chunk: texts beyond the model's maximum are not cut, but embedded in parts, of which the
                mean is taken by their numbers of tokens; one line counts them.

        Raises:
            UserError: the model has no prompt of that name.
            ModelFault: the model returns NaN or infinity.
        """
        if chunk:
            vectors = self._chunked(texts, batch_size, prompt)
        else:
            vectors = self.embed_tokens(self.tokenizer.encode(texts, prompt), batch_size)
        return compact(vectors, precision)

    def _chunked(
        self, texts: Sequence[Text], batch_size: int | None, prompt: str | None
    ) -> np.ndarray:
        texts = checked(texts)
        if not texts:
            return self.embed_tokens([])
        split = [self.tokenizer.parts(_alone(text), prompt) for text in texts]
        parts = [part for found in split for part in found]
        vectors = self.embed_tokens([part.tokens for part in parts], batch_size)
        if long := sum(len(found) > 1 for found in split):
            whose = "text is" if long == 1 else f"of {len(texts)} texts are"
            say(
                f"{long} {whose} longer than the model's {self.tokenizer.max_length} tokens, and "
                f"embedded in parts: {len(parts):,} in all."
            )
        bounds = np.cumsum([0, *map(len, split)])
        counts = np.array([max(1, part.count) for part in parts], np.float32)
        means = [
            np.average(vectors[start:end], axis=0, weights=counts[start:end])
            for start, end in pairwise(bounds)
        ]
        units = any(isinstance(step, UnitLength) for step in self._steps)
        joined = np.asarray(means, np.float32).reshape(len(texts), -1)
        return unit_length(joined) if units and self.bundle.library.width is None else joined

    def embed_tokens(self, encoded: Sequence[Tokens], batch_size: int | None = None) -> np.ndarray:
        """`embed` for tokenized texts."""
        if not len(encoded):  # the width of none is that of any
            return self.embed_tokens(self.tokenizer.whole([""]))[:0]
        embeddings: list[np.ndarray | None] = [None] * len(encoded)
        for rows, hidden, mask in run_batches(
            self.session, self.tokenizer, self._output, encoded, batch_size or self.default_batch
        ):
            prompts = np.array([encoded[row].prompt for row in rows])
            if not self._pooling.include_prompt and self._pooled and prompts.any():
                raise UserError(
                    f"{self.bundle.model_path} pools its tokens itself, and the prompt's would "
                    "have to be left out: take a graph that gives last_hidden_state."
                )
            left_out = None if self._pooling.include_prompt else prompts
            vectors = hidden if self._pooled else pool(hidden, mask, self._pooling, left_out)
            vectors = apply(self._steps, vectors)[:, : self.bundle.library.width]
            for row, vector in zip(rows, vectors, strict=True):
                embeddings[row] = vector
        return finite(np.asarray(embeddings, np.float32), "embeddings", self.bundle)

    def answers(self, encoded: Sequence[Tokens], batch_size: int | None = None) -> list[Any]:
        """Embeddings of tokenized texts, as plain numbers."""
        return self.embed_tokens(encoded, batch_size).tolist()

    def line(self, answer: list[float]) -> str:
        """The first numbers of an embedding, its size and its length."""
        numbers = " ".join(f"{number:+.4f}" for number in answer[:_SHOWN_NUMBERS])
        more = " ..." if len(answer) > _SHOWN_NUMBERS else ""
        length = np.linalg.norm(np.asarray(answer, np.float32))
        return f"{numbers}{more}  ({len(answer)} numbers, length {length:.4f})"

    def named(self, answer: list[float]) -> dict[str, Any]:
        """An embedding under its name."""
        return {"embedding": answer}

    def _choose_output(self) -> tuple[str, bool]:
        """The output to read, and whether it is already pooled."""
        ranks = {node.name: len(node.shape) for node in self.session.get_outputs()}
        if ranks.get("sentence_embedding") == 2:
            return "sentence_embedding", True
        for name in ("last_hidden_state", "token_embeddings"):
            if ranks.get(name) == 3:
                return name, False
        raise UserError(
            f"{self.bundle.model_path} gives {', '.join(ranks)} and no last_hidden_state, "
            f"token_embeddings or sentence_embedding: it is not a text encoder."
        )


def _alone(text: Text) -> str:
    if isinstance(text, str):
        return text
    raise UserError("A pair is not embedded in parts: give one text.")


def pool(
    hidden: np.ndarray,
    mask: np.ndarray,
    pooling: Pooling,
    left_out: np.ndarray | None = None,
) -> np.ndarray:
    """Pool hidden states [batch, tokens, size] over real tokens (mask [batch, tokens]).

    Args:
        left_out: how many of each text's first tokens are not pooled, [batch]; None: none.

    Returns:
        [batch, size], or several such side by side.
    """
    parts = []
    for mode in pooling.modes:
        if mode == MAX:
            taken = pooled_tokens(mask, left_out)[:, :, None]
            parts.append(np.where(taken, hidden, -np.inf).max(axis=1))
        else:
            weights = token_weights(mode, mask, left_out)
            parts.append((hidden * weights[:, :, None]).sum(axis=1))
    return np.concatenate(parts, axis=-1)
