"""Draft the next tokens from the text itself (prompt lookup, Saxena 2023).

Where the last few tokens stood before, what followed them there is drafted, and the model reads the
drafts with the last token in one call: quotations, corrections and code come several tokens at a
time. Drafts never change a text: each is kept only if it is what the model chooses.
"""

from collections.abc import Sequence

# Tokens that are looked for, the most telling first; and most that are drafted.
_SIZES, _MOST = (3, 2), 7
# A further row of a call is taken to cost so much of a step: nothing is timed while a text is made.
# Where rows share their weights it was measured as 0.1 to 0.2.
_ROW = 0.15
# Refused drafts may lose so much of the steps of a text.
_LOSS = 0.02
# Steps that a lucky stretch may save up for later refusals.
_SAVED = 3.0


class Lookup:
    """The text so far by its n-grams, and what drafts have gained of it.

    A draft is as long as the gains and 2 % of the steps so far can pay for if all of it is refused.
    So drafts grow while they are accepted, shrink when they are refused, and stop where they do not
    pay, and no text loses more than that share.
    """

    def __init__(self, prompt: Sequence[int]) -> None:
        self._ids: list[int] = []
        self._places: dict[tuple[int, ...], int] = {}
        """By each n-gram, the place after its last occurrence that has a successor."""
        self._steps = 0.0
        """Steps that refusals may yet cost."""
        for token in prompt:
            self.add(token)

    def add(self, token: int) -> None:
        """One more token of the text."""
        for size in _SIZES:
            if len(self._ids) >= size:
                self._places[tuple(self._ids[-size:])] = len(self._ids)
        self._ids.append(token)

    def draft(self) -> list[int]:
        """The tokens that may follow; none if nothing repeats or none is paid for."""
        # The smallest float above is no token less.
        count = min(_MOST, int(self._steps / _ROW + 1e-9))
        if count < 1:
            return []
        for size in _SIZES:
            place = self._places.get(tuple(self._ids[-size:]))
            if place is not None:
                period = len(self._ids) - place
                return [self._ids[place + step % period] for step in range(count)]
        return []

    def learn(self, drafted: int, accepted: int) -> None:
        """Account for one step, in which some of the drafted tokens were accepted."""
        gain = accepted - _ROW * drafted + _LOSS * (1 + accepted)
        self._steps = min(_SAVED, self._steps + gain)
