"""Fill in the masked tokens of texts with a bundle."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from edgeprune.base.errors import UserError
from edgeprune.base.progress import say
from edgeprune.runtime.batches import check_number, run_batches, usual_batch
from edgeprune.runtime.bundle import Bundle
from edgeprune.runtime.finite import finite
from edgeprune.runtime.logits import softmax
from edgeprune.runtime.session import bundle_session
from edgeprune.runtime.tokenize import Text, Tokenizer
from edgeprune.text.batches import Tokens
from edgeprune.text.masks import mask_token
from edgeprune.text.pairs import listed

TOP_K = 5
"""Fills of a masked token if no number is given, as transformers gives."""


@dataclass(frozen=True)
class Fill:
    """A token in the place of a masked one: its probability, its id, its text, and the whole text
    with it."""

    score: float
    token: int
    token_str: str
    sequence: str


@dataclass(frozen=True)
class Masked(Tokens):
    """A text's tokens, some of them masked, and which fills are wanted."""

    top_k: int = TOP_K
    targets: tuple[int, ...] = ()
    """The tokens that may fill; none: all."""


class MaskTokenizer(Tokenizer):
    """A tokenizer of texts in which something is masked.

    Its methods raise UserError for a text without the token that stands for a masked one.
    """

    def __init__(self, bundle: Bundle) -> None:
        super().__init__(bundle)
        self.mask_token, self.mask_id = mask_token(bundle.folder, self.rust)

    def encode(
        self, texts: Sequence[Text], prompt: str | None = None, first_only: bool = False
    ) -> list[Tokens]:
        """Tokens of each text, cut at the model's maximum."""
        return self._with_masks(super().encode(texts, prompt, first_only))

    def whole(self, texts: Sequence[Text], prompt: str | None = None) -> list[Tokens]:
        """The same of each text, however long; several threads may call this at once."""
        return self._with_masks(super().whole(texts, prompt))

    def targets(self, words: Sequence[str]) -> tuple[int, ...]:
        """The different tokens that are words, or begin them where no token is the whole word.

        Raises:
            UserError: there is none.
        """
        found = []
        for word in listed(words, "Words that may fill"):
            if not isinstance(word, str):
                raise UserError(f"A word that may fill is a text, and {word!r:.60} is none.")
            number = self.rust.token_to_id(word)
            if number is None:
                begin = self.rust.encode(word, add_special_tokens=False).ids[:1]
                number = begin[0] if begin else None
                if number is not None:
                    say(
                        f"Warning: no token is {word!r}: {self.rust.id_to_token(number)!r}, with "
                        "which it begins, stands for it."
                    )
            if number is not None:
                found.append(number)
        if not found:
            raise UserError(f"The model has no token for any of {list(words)!r}: name others.")
        return tuple(dict.fromkeys(found))

    def _with_masks(self, encoded: list[Tokens]) -> list[Tokens]:
        for number, tokens in enumerate(encoded, start=1):
            if self.mask_id not in tokens.ids:
                which = f"Text {number} of {len(encoded)}" if len(encoded) > 1 else "The text"
                raise UserError(
                    f"{which} masks nothing that the model reads: write {self.mask_token} where a "
                    "word is to be filled in."
                )
        return encoded


class Filler:
    """An encoder that fills in masked tokens."""

    tokenizer: MaskTokenizer

    def __init__(self, bundle: Bundle, threads: int | None = None) -> None:
        self.bundle = bundle
        self.tokenizer = MaskTokenizer(bundle)
        self.session = bundle_session(bundle, threads)
        self.default_batch = usual_batch(bundle.model_path)

    def fill(
        self,
        texts: Sequence[str],
        top_k: int = TOP_K,
        targets: Sequence[str] | None = None,
        batch_size: int | None = None,
    ) -> list[list[list[Fill]]]:
        """The likeliest fills of every masked token of each text, the likeliest first.

        Args:
            texts: each with the model's own token for a masked one, [MASK] or <mask>, once or
                several times; each is filled as if the others stayed masked.
            top_k: how many fills of each.
            targets: the words that may fill; None: all tokens.

        Raises:
            UserError: a text without a masked token, or targets that are no tokens.
            ModelFault: the model returns NaN or infinity.
        """
        return self._fills(self.encode(texts, top_k, targets or ()), batch_size)

    def encode(
        self, texts: Sequence[str], top_k: int, targets: Sequence[str], cut: bool = True
    ) -> list[Masked]:
        """Tokenized texts that say which fills are wanted; arguments and errors as of `fill`.

        Args:
            cut: at the model's maximum; otherwise all of a text is there, however long.
        """
        check_number("top_k", top_k)
        wanted = self.tokenizer.targets(targets) if targets else ()
        read = self.tokenizer.encode if cut else self.tokenizer.whole
        return [
            Masked(tokens.ids, tokens.type_ids, top_k=top_k, targets=wanted)
            for tokens in read(texts)
        ]

    def answers(self, encoded: Sequence[Tokens], batch_size: int | None = None) -> list[Any]:
        """Fills of tokenized texts, as plain values: a list of each masked token's."""
        return [
            [[asdict(fill) for fill in fills] for fills in masks]
            for masks in self._fills(encoded, batch_size)
        ]

    def line(self, answer: list[list[dict[str, Any]]]) -> str:
        """The fills of each masked token with their probabilities."""
        return " | ".join(
            "; ".join(f"{one['token_str'].strip()} {one['score']:.3f}" for one in fills)
            for fills in answer
        )

    def named(self, answer: list[list[dict[str, Any]]]) -> dict[str, Any]:
        """The fills."""
        return {"fills": answer}

    def logits(self, encoded: Sequence[Tokens], batch_size: int | None = None) -> list[np.ndarray]:
        """Of each tokenized text the logits of its masked tokens, [masked, vocabulary] float32."""
        found: list[np.ndarray] = [np.empty(0)] * len(encoded)
        for rows, logits, _ in run_batches(
            self.session, self.tokenizer, "logits", encoded, batch_size or self.default_batch
        ):
            for row, values in zip(rows, logits, strict=True):
                chosen = values[self._places(encoded[row])]
                found[row] = finite(chosen, "logits", self.bundle)
        return found

    def masks_in(self, tokens: Tokens) -> int:
        """The number of a text's masked tokens."""
        return len(self._places(tokens))

    def _places(self, tokens: Tokens) -> np.ndarray:
        return np.flatnonzero(np.asarray(tokens.ids) == self.tokenizer.mask_id)

    def _fills(self, encoded: Sequence[Tokens], batch_size: int | None) -> list[list[list[Fill]]]:
        return [
            self._of_text(tokens, softmax(logits))
            for tokens, logits in zip(encoded, self.logits(encoded, batch_size), strict=True)
        ]

    def _of_text(self, tokens: Tokens, probabilities: np.ndarray) -> list[list[Fill]]:
        top_k, targets = TOP_K, np.arange(probabilities.shape[-1])
        if isinstance(tokens, Masked):
            top_k = tokens.top_k
            targets = np.array(tokens.targets) if tokens.targets else targets
        places, found = self._places(tokens), []
        for place, row in zip(places, probabilities, strict=True):
            best = targets[np.argsort(-row[targets], kind="stable")[:top_k]]
            ids = list(tokens.ids)
            fills = []
            for token in map(int, best):
                ids[place] = token
                # Other masks are special tokens, and stay to be seen.
                sequence = self.tokenizer.rust.decode(
                    [each for each in ids if each != self.tokenizer.pad_id],
                    skip_special_tokens=len(places) == 1,
                )
                text = self.tokenizer.rust.decode([token], skip_special_tokens=False)
                fills.append(Fill(float(row[token]), token, text, sequence))
            found.append(fills)
        return found
