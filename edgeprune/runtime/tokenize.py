"""Convert text to token ids with the model's tokenizer.json."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
from tokenizers import Encoding

from edgeprune.base.errors import UserError
from edgeprune.base.progress import say
from edgeprune.model.token_types import tells_token_types
from edgeprune.runtime.bundle import Bundle
from edgeprune.text.batches import Tokens
from edgeprune.text.pair_template import read_pair_template
from edgeprune.text.pairs import Document, checked
from edgeprune.text.prompts import prompt_tokens
from edgeprune.text.tokenizer_file import open_tokenizer

Text = Document
"""A text or pair, which has an answer of its own."""


@dataclass(frozen=True)
class Part:
    """Some of a text's tokens, which the model takes at once."""

    tokens: Tokens
    count: int
    """The number of them that are the text's own."""


_PROBE = "a"
"""A text of no special token."""
_AT_ONCE = 256
"""Texts that are encoded at once: an encoding takes a hundred bytes a token."""


def _parted(texts: Sequence[Text]) -> Iterator[Sequence[Text]]:
    for start in range(0, max(1, len(texts)), _AT_ONCE):
        yield texts[start : start + _AT_ONCE]


class Tokenizer:
    """A bundle's tokenizer. It ignores the padding and truncation settings in tokenizer.json, which
    belong to the model's training, and puts a sentence encoder's prompt before each text."""

    def __init__(self, bundle: Bundle) -> None:
        self.bundle = bundle
        self._counted: list[int] | None = None
        """Within `counting`, the texts that were cut and those that were read."""
        self.rust = open_tokenizer(bundle.tokenizer_path)
        self.max_length = bundle.max_length
        self._typed = tells_token_types(bundle.tokenizer_config, bundle.config)
        self.pad_id = self._pad_id(bundle)
        self.eos_id = self._named(bundle, "eos_token")
        self._library = bundle.library
        self._template = read_pair_template(bundle.folder)
        self._end = self._template.end(self.rust) if self._template else []
        self.unknown_id = self._named(bundle, "unk_token")
        self._side = bundle.tokenizer_config.get("truncation_side", "right")

    def encode(
        self, texts: Sequence[Text], prompt: str | None = None, first_only: bool = False
    ) -> list[Tokens]:
        """Tokens of each text with the model's special tokens. Texts beyond the model's maximum are
        cut, and one warning counts them; so does the bundle.

        Args:
            prompt: the name of a sentence encoder's prompt; None: its usual one, if it has one.
            first_only: cut the first text of a pair alone; otherwise the longer one first.

        Raises:
            UserError: the model has no prompt of that name.
        """
        if self.max_length is not None:
            self.cut_at(self.max_length, first_only)
        found, cut = list[Tokens](), 0
        try:
            for some in _parted(texts):
                encodings, first = self._encoded(some, prompt)
                cut += sum(bool(encoding.overflowing) for encoding in encodings)
                found += self._tokens(encodings, first)
        finally:
            self.rust.no_truncation()
        self.bundle.cut_texts += cut
        if self._counted is None:
            self._warn_of_cut(cut, len(found), "")
        else:
            self._counted = [self._counted[0] + cut, self._counted[1] + len(found)]
        return found

    @contextmanager
    def counting(self, remedy: str = "") -> Iterator[None]:
        """Warn once of all texts that `encode` cuts meanwhile, and not at every call.

        Args:
            remedy: what would read them whole, as a sentence.
        """
        self._counted = [0, 0]
        try:
            yield
        finally:
            (cut, count), self._counted = self._counted, None
        self._warn_of_cut(cut, count, remedy)

    def _warn_of_cut(self, cut: int, count: int, remedy: str) -> None:
        if not cut:
            return
        whose, cut_off = "The text is", "was cut"
        if count > 1:
            whose = f"{cut:,} of {count:,} texts {'is' if cut == 1 else 'are'}"
            cut_off = "was cut" if cut == 1 else "were cut"
        say(
            f"Warning: {whose} longer than the model's {self.max_length} tokens and {cut_off}."
            f"{remedy and f' {remedy}'}"
        )

    def whole(self, texts: Sequence[Text], prompt: str | None = None) -> list[Tokens]:
        """The same of each text, however long; several threads may call this at once."""
        found = list[Tokens]()
        for some in _parted(texts):
            found += self._tokens(*self._encoded(some, prompt))
        return found

    def _tokens(self, encodings: Sequence[Encoding], first: int) -> list[Tokens]:
        return [
            Tokens(
                [*each.ids, *self._end],
                [*(each.type_ids if self._typed else [0] * len(each.ids)), *[0] * len(self._end)],
                first,
            )
            for each in encodings
        ]

    def cut_at(self, tokens: int, first_only: bool = False) -> None:
        """Let `whole` cut each text at so many tokens, of a pair the longer one first."""
        if self._template is not None:
            self.rust.no_truncation()
            tokens = self._template.room(self.rust, tokens)
        strategy = "only_first" if first_only else "longest_first"
        self.rust.enable_truncation(tokens, strategy=strategy, direction=self._side)

    def _encoded(self, texts: Sequence[Text], prompt: str | None) -> tuple[list[Encoding], int]:
        """Encodings, and how many of the first tokens are the prompt's."""
        before, texts = self._library.prompt(prompt), checked(texts)
        if self._template is not None:
            whole = [self._template.joined(text) for text in texts]
            return self.rust.encode_batch(whole, add_special_tokens=False), 0
        if before:
            texts = [
                before + text if isinstance(text, str) else (before + text[0], text[1])
                for text in texts
            ]
        try:
            encodings = self.rust.encode_batch(list(texts))
        except Exception as error:  # the library's only one
            raise UserError(
                f"The second text of a pair leaves no room for the first: shorten it ({error})."
            ) from None
        return encodings, prompt_tokens(self.rust, before)

    def parts(self, text: str, prompt: str | None = None) -> list[Part]:
        """A text in parts of the model's maximum, each with the prompt and the special tokens that
        a whole text has.

        Raises:
            UserError: the prompt leaves no room for text.
        """
        [whole] = self.whole([text], prompt)
        if self.max_length is None or len(whole.ids) <= self.max_length:
            return [Part(whole, len(whole.ids))]
        lead, special = self._around()
        before = self.rust.encode(self._library.prompt(prompt)).ids[lead : whole.prompt]
        room = self.max_length - len(before) - special
        if room < 1:
            raise UserError(
                f"The prompt and the special tokens are {self.max_length - room:,} tokens, and the "
                f"model takes {self.max_length:,}: no text has room beside them."
            )
        ids = self.rust.encode(text, add_special_tokens=False).ids
        around = self.rust.encode("").ids
        start, end = [*around[:lead], *before], around[lead:]
        found = []
        for first in range(0, len(ids), room):
            piece = ids[first : first + room]
            joined = [*start, *piece, *end]
            found.append(Part(Tokens(joined, [0] * len(joined), whole.prompt), len(piece)))
        return found

    def _around(self) -> tuple[int, int]:
        """The number of special tokens before a text, and of those around it in all."""
        mask = self.rust.encode(_PROBE).special_tokens_mask
        return mask.index(0), sum(mask)

    def ids(self, text: str, special_tokens: bool = True) -> list[int]:
        """All token ids of a text, however long."""
        return self.rust.encode(text, add_special_tokens=special_tokens).ids

    def text(self, ids: Sequence[int]) -> str:
        """The text of token ids, without special tokens."""
        return self.rust.decode(list(ids), skip_special_tokens=True)

    def pad(self, batch: Sequence[Tokens]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Ids, mask and segments of a batch, padded on the right: each [batch, tokens] int64."""
        shape = (len(batch), max(len(tokens.ids) for tokens in batch))
        ids = np.full(shape, self.pad_id, np.int64)
        mask, type_ids = np.zeros(shape, np.int64), np.zeros(shape, np.int64)
        for row, tokens in enumerate(batch):
            length = len(tokens.ids)
            ids[row, :length] = tokens.ids
            mask[row, :length] = 1
            type_ids[row, :length] = tokens.type_ids
        return ids, mask, type_ids

    def _named(self, bundle: Bundle, name: str) -> int | None:
        """The id of a token that tokenizer_config.json names."""
        token = bundle.tokenizer_config.get(name)
        if isinstance(token, dict):  # an AddedToken, as older releases write it
            token = token.get("content")
        return self.rust.token_to_id(token) if isinstance(token, str) else None

    def _pad_id(self, bundle: Bundle) -> int:
        """The model's padding id, which some graphs look for; 0 if it states none, since padding is
        masked."""
        rows = bundle.config.get("vocab_size")
        for stated in (bundle.config.get("pad_token_id"), self._named(bundle, "pad_token")):
            if isinstance(stated, int) and 0 <= stated < (rows or stated + 1):
                return stated
        return 0
