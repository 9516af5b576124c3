"""Answers that are generated at once: a call reads a token of each, and they come and go between
calls (continuous batching; Yu et al., 2022).

    prompts, a part of one in turn ─> one answer: alone, with drafts
                                   └> several: rows of one cache, a token of each in a call
"""

from collections import deque
from collections.abc import Callable, Iterator
from functools import partial

from edgeprune.runtime.cache import Rows
from edgeprune.runtime.generate import Answer, Generator, Piece

# Tokens of a prompt that are read in one call: with others waiting, for a tenth of a second of a
# small model, and without.
_PART, _WHOLE = 128, 512

Outcome = list[Piece] | Exception
"""A round's pieces of an answer, or the reason why it failed."""


class Together:
    """The answers of one decoder, for one thread. Where the graph gives a token the same bits in
    any company (`Decoder.drafts`), each has the text that it has alone."""

    def __init__(self, model: Generator, most: int, keeps: bool = True) -> None:
        """`most` answers at once; `keeps`: what an answer has read stays in its reading."""
        self._rows, self._keeps = Rows(model.decoder, most), keeps
        self._prompts: deque[Answer] = deque()
        self._ready: list[Answer] = []
        """Those whose prompt was read: if several, in the order of their rows."""

    def join(self, answer: Answer) -> None:
        """Generate an answer from the next round on."""
        answer.begin()
        self._prompts.append(answer)

    def leave(self, answer: Answer) -> None:
        """Generate it no further."""
        if answer in self._prompts:
            self._prompts.remove(answer)
            return
        place = self._ready.index(answer)
        if self._rows.lengths:
            self._rows.leave(place, answer.reading.decoding if self._keeps else None)
            if not self._keeps:
                answer.reading.forget()
        self._ready[place] = self._ready[-1]
        self._ready.pop()
        if len(self._rows.lengths) == 1:
            self._rows.leave(0, self._ready[0].reading.decoding)

    def round(self) -> Iterator[tuple[Answer, Outcome]]:
        """A token of each answer whose prompt was read, then a part of one prompt: no answer twice.
        What ended or failed has left."""
        if len(self._ready) > 1:
            yield from self._step()
        elif self._ready:
            yield from self._done(self._ready[0], self._ready[0].advance)
        if self._prompts:
            yield from self._read_part()

    def _read_part(self) -> list[tuple[Answer, Outcome]]:
        answer = self._prompts[0]
        part = _PART if len(self._prompts) > 1 or self._ready else _WHOLE
        if len(answer.unread) > part:
            self._prompts.rotate(-1)
            return self._done(answer, partial(answer.prepare, part))
        found = self._done(answer, answer.advance)
        if answer in self._prompts:
            self._prompts.remove(answer)
            self._ready.append(answer)
            if len(self._ready) > 1:
                for each in self._ready[len(self._rows.lengths) :]:
                    self._rows.join(each.reading.decoding)
        return found

    def _step(self) -> list[tuple[Answer, Outcome]]:
        answers, tokens = list(self._ready), [answer.unread[0] for answer in self._ready]
        try:
            logits = self._rows.step(tokens)
        except Exception as error:  # nobody knows how much the cache holds
            self._rows.clear()
            self._ready = []
            for answer in answers:
                answer.reading.forget()
            return [(answer, error) for answer in answers]
        found = []
        for answer, token, row in zip(answers, tokens, logits, strict=True):
            answer.reading.ids.append(token)
            found += self._done(answer, partial(answer.choose, row))
        return found

    def _done(
        self, answer: Answer, act: Callable[[], list[Piece] | None]
    ) -> list[tuple[Answer, Outcome]]:
        """An act on one answer, and its outcome; if it was the last, the answer leaves."""
        try:
            outcome: Outcome = act() or []
        except Exception as error:  # it is that answer's alone
            outcome = error
        if answer.reason is not None or isinstance(outcome, Exception):
            self.leave(answer)
        return [(answer, outcome)]
