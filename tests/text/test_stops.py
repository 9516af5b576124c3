"""Stop strings, however the text comes in pieces."""

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from edgeprune.text.stops import Stops, beginning

SMALL = st.text("ab\n", max_size=30)


def told(pieces: list[str], strings: list[str]) -> tuple[str, bool, str]:
    """What was shown before the end, whether one was found, and all that was shown."""
    stops, shown = Stops(strings), ""
    for piece in pieces:
        shown += stops.shown(piece)
        if stops.found:
            return shown, True, shown
    return shown, False, shown + stops.rest()


@given(SMALL, st.lists(st.text("ab\n", min_size=1, max_size=4), max_size=3), st.data())
def test_a_text_ends_before_the_first_string_and_nothing_is_held_longer_than_it_may(
    text: str, strings: list[str], data: st.DataObject
) -> None:
    cuts = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=6)))
    ends = [0, *cuts, len(text)]
    pieces = [text[one:other] for one, other in pairwise(ends)]
    shown, found, whole = told(pieces, strings)
    assert found == any(each in text for each in strings)
    if found:
        # Whichever string is complete first ends it, at its first place.
        first = min(text.find(each) + len(each) for each in strings if each in text)
        places = [text.find(each) for each in strings if each in text]
        assert whole == text[: len(whole)]
        assert min(places) <= len(whole) <= first
        assert not any(each in whole for each in strings)
        if len(pieces) == 1 or all(len(piece) <= 1 for piece in pieces):
            assert len(whole) in places
    else:
        assert whole == text
        held = text[len(shown) :]
        assert held == "" or any(each.startswith(held) and each != held for each in strings)


def test_the_longest_end_that_begins_a_string() -> None:
    assert beginning("one <to", "<tool_call>") == 3
    assert beginning("aab", "aaba") == 3
    assert beginning("aaba", "aaba") == 1
    assert beginning("", "x") == 0
