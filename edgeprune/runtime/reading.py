"""Token ids that a decoder has read, with their cache: what a longer text shares with them is not
read again."""

from collections.abc import Sequence
from typing import Self

import numpy as np

from edgeprune.runtime.cache import Decoder, Decoding

# Tokens of one call: the memory of a call grows with them, and between calls a text may be stopped.
_CHUNK = 512


class Reading:
    """A decoder's cache, and the ids that it holds. For one thread at a time."""

    def __init__(self, decoder: Decoder, decoding: Decoding | None = None) -> None:
        self._decoder = decoder
        self.decoding = decoding or decoder.start()
        self.ids: list[int] = []

    def shared(self, ids: Sequence[int]) -> int:
        """The number of a text's first tokens that it holds."""
        most = min(len(self.ids), len(ids))
        return next((n for n in range(most) if self.ids[n] != ids[n]), most)

    def keep(self, ids: Sequence[int]) -> int:
        """Forget what does not begin this text, or is all of it; return how many tokens are left.

        The last token of a text is always read again: the logits after it are wanted.
        """
        self.cut(min(self.shared(ids), len(ids) - 1))
        return len(self.ids)

    def cut(self, length: int) -> None:
        """Forget all but the first `length` tokens; all, where the decoder cannot forget some."""
        if length >= len(self.ids):
            return
        if self._decoder.cuts:
            self.decoding.cut(length)
            del self.ids[length:]
        else:
            self.forget()

    def forget(self) -> None:
        """Hold nothing any more."""
        self.decoding, self.ids = self._decoder.start(), []

    def copy(self, length: int) -> Self:
        """Another one, of the first `length` tokens, of a decoder that `cuts`."""
        other = type(self)(self._decoder, self.decoding.copy(length))
        other.ids = self.ids[:length]
        return other

    def read(self, ids: Sequence[int], rows: int = 1) -> np.ndarray:
        """Logits of the last `rows` of these tokens, read after those that are held: [rows,
        vocabulary], the caller's until the next call.

        Raises:
            ModelFault: the graph fails.
        """
        if not self._decoder.has_cache:  # every call takes all of the text
            self.ids += ids
            return self.decoding.step(self.ids, last_only=rows == 1)[0, -rows:]
        try:
            for start in range(0, len(ids), _CHUNK):
                chunk = ids[start : start + _CHUNK]
                logits = self.decoding.step(chunk, last_only=rows == 1)
                self.ids += chunk
        except BaseException:  # also Ctrl-C, after which nobody knows how much the cache holds
            self.forget()
            raise
        return logits[0, -rows:]
