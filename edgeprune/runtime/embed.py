"""Sentence embeddings from a bundle."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from edgeprune.base.errors import UserError
from edgeprune.base.progress import say_once
from edgeprune.runtime.batches import mixes_texts, run_batches
from edgeprune.runtime.bundle import Bundle
from edgeprune.runtime.finite import finite
from edgeprune.runtime.session import open_session
from edgeprune.runtime.tokenize import Text, Tokenizer, Tokens

_SHOWN_NUMBERS = 6


class Embedder:
    """A sentence encoder: `embed` texts, pooled and normalized as the bundle says."""

    def __init__(self, bundle: Bundle, threads: int | None = None) -> None:
        self.bundle = bundle
        self.tokenizer = Tokenizer(bundle)
        self.session = open_session(
            bundle.model_path, threads, minimum_onnxruntime=bundle.minimum_onnxruntime
        )
        # Texts in a call if no batch size is given; None: as many as run fast together.
        self.default_batch = 1 if mixes_texts(bundle.model_path) else None
        self._output, self._pooled = self._choose_output()
        self._pooling = bundle.pooling
        if self._pooling is None and not self._pooled:
            say_once("The model does not say how to pool its tokens: taking their mean.")
            self._pooling = "mean"

    def embed(self, texts: Sequence[Text], batch_size: int | None = None) -> np.ndarray:
        """Embeddings of texts, [texts, size] float32.

        Without a batch size, texts of similar length run together, or one by one if the graph would
        let them change each other's scales (batches.py).

        Raises:
            ModelFault: the model returns NaN or infinity.
        """
        return self.embed_tokens(self.tokenizer.encode(texts), batch_size)

    def embed_tokens(self, encoded: Sequence[Tokens], batch_size: int | None = None) -> np.ndarray:
        """`embed` for tokenized texts."""
        embeddings: list[np.ndarray | None] = [None] * len(encoded)
        for rows, hidden, mask in run_batches(
            self.session, self.tokenizer, self._output, encoded, batch_size or self.default_batch
        ):
            vectors = hidden
            if not self._pooled:
                vectors = pool(hidden, mask, self._pooling or "mean")
                for linear in self.bundle.projections:
                    vectors = vectors @ linear.weight.T + linear.bias
            if self.bundle.normalize:
                vectors = normalize(vectors)
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


def pool(hidden: np.ndarray, mask: np.ndarray, mode: str) -> np.ndarray:
    """Pool hidden states [batch, tokens, size] over real tokens (mask [batch, tokens]).

    `mode` is "mean", or "cls" for the first token. Returns [batch, size].
    """
    if mode == "cls":
        return hidden[:, 0]
    weights = mask[:, :, None].astype(hidden.dtype)
    return (hidden * weights).sum(axis=1) / np.maximum(weights.sum(axis=1), 1e-9)


def normalize(vectors: np.ndarray) -> np.ndarray:
    """Vectors [..., size] scaled to length 1; a zero vector stays zero."""
    return vectors / np.maximum(np.linalg.norm(vectors, axis=-1, keepdims=True), 1e-12)
