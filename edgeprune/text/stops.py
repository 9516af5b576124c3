"""End a text before the first of some strings, which may begin in one piece and end in another."""

from collections.abc import Sequence


class Stops:
    """The part of a text's pieces that may be shown: all but what may yet become a string."""

    def __init__(self, strings: Sequence[str]) -> None:
        self._strings = [each for each in strings if each]
        self._held = ""
        self.found = False
        """Whether one of the strings came."""

    def shown(self, piece: str) -> str:
        """More text that may be shown after one more piece."""
        text = self._held + piece
        places = [place for each in self._strings if (place := text.find(each)) >= 0]
        if places:
            self.found, self._held = True, ""
            return text[: min(places)]
        held = max((beginning(text, each) for each in self._strings), default=0)
        self._held = text[len(text) - held :]
        return text[: len(text) - held]

    def rest(self) -> str:
        """The text that was held back, once there is no more."""
        held, self._held = self._held, ""
        return held


def beginning(text: str, string: str) -> int:
    """The length of the longest end of a text that is a beginning of a string, but not all."""
    most = min(len(text), len(string) - 1)
    return next((n for n in range(most, 0, -1) if text.endswith(string[:n])), 0)
