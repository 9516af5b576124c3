"""A text as windows of tokens, for what is measured token by token."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from edgeprune.base.errors import UserError
from edgeprune.measure.evaluate.data import Data
from edgeprune.measure.evaluate.result import Sample
from edgeprune.runtime.bundle import Bundle
from edgeprune.runtime.tokenize import Tokenizer


@dataclass(frozen=True)
class Windows:
    """Windows of a text's tokens.

    ids: [windows, window] int64, each with the tokens that open a text before its own.
    new_from: [windows], where in each window the tokens begin that no earlier window of the text
        holds, opening ones left aside.
    opening: how many tokens open each.
    groups: the group of each window, None where the data has none.
    """

    ids: np.ndarray
    new_from: np.ndarray
    opening: int
    groups: Sequence[str] | None
    left_out: int = 0
    """Languages that fill no window."""

    @property
    def conditions(self) -> dict[str, int]:
        """The number of windows, and of tokens in each."""
        count, window = self.ids.shape
        more = {"opening_tokens": self.opening} if self.opening else {}
        more |= {"languages_left_out": self.left_out} if self.left_out else {}
        return {"windows": count, "window_tokens": window, **more}


def token_windows(bundle: Bundle, data: Data, window: int, stride: int | None = None) -> Windows:
    """Windows whose texts begin `stride` tokens after each other; without one they do not overlap.

    The text (each group's) is tokenized whole, and every window opened as the model's tokenizer
    opens a text, since each stands alone. The tokens that fill no window at the text's end are left
    out, and languages that fill none; the data's limit keeps the first windows.

    Raises:
        UserError: a text does not fill one window, a window is more than the model takes, or the
            stride leaves tokens between windows.
    """
    if bundle.max_length is not None and window > bundle.max_length:
        raise UserError(
            f"{bundle.folder} takes {bundle.max_length:,} tokens at most, and the window has "
            f"{window:,}: lower --window."
        )
    tokenizer = Tokenizer(bundle)
    found, new_from, groups, of, short = [], [], [], 0, 0
    documents = data.documents()
    for group, text in documents:
        opening, own = opened(tokenizer, text)
        length = window - len(opening)
        step = length if stride is None else stride
        if length < 1:
            raise UserError(
                f"{bundle.folder} opens a text with {len(opening)} tokens of its own, and a window "
                f"of {window} has room for no more: raise --window."
            )
        if step > length:
            raise UserError(
                f"A stride of {step:,} tokens leaves some between windows of {length:,} tokens of "
                f"text: lower --stride."
            )
        if len(own) < length and data.languages and short < len(documents) - 1:
            short += 1
            continue
        if len(own) < length:
            name = data.place if group is None else f"{data.place}: {group}"
            raise UserError(
                f"{name} has {len(opening) + len(own):,} tokens and does not fill one window of "
                f"{window:,}: give more text, or lower --window."
            )
        texts = np.lib.stride_tricks.sliding_window_view(np.array(own, np.int64), length)[::step]
        of += len(texts)
        texts = texts[: data.limit]
        found.append(np.hstack([np.tile(np.array(opening, np.int64), (len(texts), 1)), texts]))
        new_from += [len(opening)] + [window - step] * (len(texts) - 1)
        groups += [str(group)] * len(texts)
    ids = np.concatenate(found)
    data.sample = None
    if len(ids) < of:
        data.sample = Sample(taken=len(ids), of=of, unit="windows", seed=None, by=())
    named = None if data.group is None else groups
    return Windows(ids, np.array(new_from), len(opening), named, short)


def opened(tokenizer: Tokenizer, text: str) -> tuple[list[int], list[int]]:
    """The special tokens with which a model's tokenizer opens a text, and the text's own tokens.

    This is the one rule for whatever is measured token by token, and lm-evaluation-harness's: a
    model is given what it was trained with, such as the <bos> that Gemma cannot do without, never
    twice where the text writes it itself, and not what would close the text.
    """
    encoding = tokenizer.rust.encode(text)
    added = np.array(encoding.special_tokens_mask, bool)
    places = np.flatnonzero(~added)
    first, end = (places[0], places[-1] + 1) if len(places) else (0, 0)
    opening, own = encoding.ids[:first], encoding.ids[first:end]
    if own[: len(opening)] == opening:
        own = own[len(opening) :]
    return opening, own
