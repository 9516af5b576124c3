"""Tokens leave a tokenizer; the original tokenizer is the oracle of what must stay the same."""

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_tokenizers import KINDS, LOSSLESS, SPECIAL, WORDS, content, tokenizer_json
from tokenizers import Tokenizer

from edgeprune.base.errors import UserError
from edgeprune.compress.cut.tokenizer import renumbered, tokens_to_keep, trim_tokenizer, vocabulary

KNOWN_TEXT = st.lists(st.sampled_from([*WORDS, "the", "again", ",", "!"]), max_size=12).map(
    " ".join
)
MASHED = st.text("abcdeghiklnoprstuvwy ,!", max_size=40)
ANY_TEXT = st.one_of(KNOWN_TEXT, MASHED, st.text(max_size=30))


def trimmed_by(kind: str, used: set[int]) -> tuple[Tokenizer, list[int]]:
    original = content(kind)
    kept = tokens_to_keep(original, used)
    return Tokenizer.from_str(json.dumps(trim_tokenizer(original, kept))), kept


def some_ids(kind: str) -> st.SearchStrategy[set[int]]:
    return st.sets(st.sampled_from(sorted(vocabulary(content(kind)).values())), max_size=80)


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_text_of_kept_tokens_stays_the_same(kind, data):
    """Whichever tokens are kept: a text that uses no other has the same tokens."""
    original = Tokenizer.from_str(tokenizer_json(kind))
    text = data.draw(ANY_TEXT)
    ids = original.encode(text).ids
    tokenizer, kept = trimmed_by(kind, data.draw(some_ids(kind)) | set(ids))
    assert [kept[token] for token in tokenizer.encode(text).ids] == ids
    other = data.draw(ANY_TEXT)
    theirs = original.encode(other).ids
    mine = [kept[token] for token in tokenizer.encode(other).ids]
    assert mine == theirs or not set(theirs) <= set(kept)


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_any_text_is_written_and_read_back_as_before(kind, data):
    """No id is out of range, nothing is unknown that was known, and the text comes back."""
    original = Tokenizer.from_str(tokenizer_json(kind))
    tokenizer, kept = trimmed_by(kind, data.draw(some_ids(kind)))
    text = data.draw(ANY_TEXT)
    before, after = original.encode(text), tokenizer.encode(text)
    assert all(0 <= token < len(kept) for token in after.ids)
    assert tokenizer.decode(after.ids) == original.decode(before.ids)
    assert ("[UNK]" in after.tokens) == ("[UNK]" in before.tokens)
    if kind in LOSSLESS:
        assert tokenizer.decode(after.ids) == text


@pytest.mark.parametrize("kind", KINDS)
def test_every_kept_token_is_reached_if_it_was(kind):
    original = Tokenizer.from_str(tokenizer_json(kind))
    known = vocabulary(content(kind))
    used = {number for number in known.values() if number % 3 == 0}
    tokenizer, kept = trimmed_by(kind, used)
    new = renumbered(kept)
    assert len(kept) < len(known)
    reached = 0
    for token, old in known.items():
        text = original.decode([old], skip_special_tokens=False)
        alone = original.encode(text, add_special_tokens=False).ids
        if old in new and alone == [old]:
            assert tokenizer.encode(text, add_special_tokens=False).ids == [new[old]], token
            reached += 1
    assert reached > 30


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_kept_is_little_more_than_what_is_used(kind):
    original = Tokenizer.from_str(tokenizer_json(kind))
    used = set(original.encode("playing the overloads").ids)
    kept = tokens_to_keep(content(kind), used)
    known = vocabulary(content(kind))
    names = {number: token for token, number in known.items()}
    more = [names[n] for n in kept if n not in used]
    plain = [t for t in more if t not in (*SPECIAL, "<|end|>") and not t.startswith("<0x")]
    longer = [token for token in plain if len(token.removeprefix("##")) > 1]
    # Parts of the words, and one that keeps the cost of the unknown.
    assert len(longer) <= 12, longer
    assert used <= set(kept) < set(known.values())


@pytest.mark.parametrize("kind", KINDS)
def test_trimming_twice_is_trimming_once(kind):
    original = content(kind)
    large, small = set(range(300)), set(range(0, 300, 5))
    first = tokens_to_keep(original, large)
    once = trim_tokenizer(original, tokens_to_keep(original, small))
    new = renumbered(first)
    between = trim_tokenizer(original, first)
    kept = tokens_to_keep(between, {new[token] for token in small if token in new})
    assert trim_tokenizer(between, kept) == once


def test_specials_are_numbered_anew_everywhere():
    original = content("byte-level")
    tokenizer, kept = trimmed_by("byte-level", set())
    assert len(kept) == 256 + len(SPECIAL) + 1  # bytes and specials
    end = tokenizer.token_to_id("<|end|>")
    assert end == len(kept) - 1
    assert tokenizer.encode("hi").ids[-1] == end
    word_piece = content("wordpiece")
    word_piece["padding"]["pad_id"] = 3
    [pad] = [trim_tokenizer(word_piece, [1, 2, 3, *range(8, 40)])["padding"]["pad_id"]]
    assert pad == 2
    assert original == content("byte-level")  # what is given is not changed


def test_merges_in_either_form_and_a_model_without_a_name():
    pairs = content("byte-level")
    lines: dict[str, Any] = content("byte-level")
    lines["model"]["merges"] = [" ".join(merge) for merge in lines["model"]["merges"]]
    del lines["model"]["type"]
    used = set(range(0, 400, 3))
    kept = tokens_to_keep(pairs, used)
    assert tokens_to_keep(lines, used) == kept
    a, b = (Tokenizer.from_str(json.dumps(trim_tokenizer(t, kept))) for t in (pairs, lines))
    assert a.encode("playing the teachers").ids == b.encode("playing the teachers").ids
    word_piece = content("wordpiece")
    del word_piece["model"]["type"]
    assert tokens_to_keep(word_piece, used) == tokens_to_keep(content("wordpiece"), used)


@pytest.mark.parametrize("change", [{"type": "WordLevel"}, {"end_of_word_suffix": "</w>"}])
def test_kinds_that_cannot_be_trimmed_are_refused(change):
    tokenizer = content("byte-level")
    tokenizer["model"] |= change
    with pytest.raises(UserError, match=r"cannot be trimmed.*leave `vocabulary` out"):
        tokens_to_keep(tokenizer, {1})


def test_a_character_that_only_longer_pieces_hold_keeps_them():
    tokenizer = content("wordpiece")
    del tokenizer["model"]["vocab"]["##w"]
    tokenizer["model"]["vocab"]["##owz"] = 900
    assert 900 in tokens_to_keep(tokenizer, set())
