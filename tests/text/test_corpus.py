"""Digests and exact splits of a corpus."""

from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeprune.base.errors import UserError
from edgeprune.text.corpus import Corpus


def test_the_digest_tells_contents_apart():
    texts = ["one two", "three"]
    digests = {
        Corpus("a", texts).digest,
        Corpus("b", ["three", "one two"]).digest,
        Corpus("c", texts, [0, 1]).digest,
        Corpus("d", texts, [1, 0]).digest,
        Corpus("e", ["one", "two three"]).digest,
    }
    assert len(digests) == 5
    assert Corpus("elsewhere", texts).digest == Corpus("a", texts).digest


@given(count=st.integers(2, 300), share=st.floats(0.01, 0.49), seed=st.integers(0, 99))
@settings(max_examples=60)
def test_a_split_is_exact_and_disjoint(count, share, seed):
    corpus = Corpus("x", [f"text {i}" for i in range(count)], list(range(count)))
    train, held = corpus.split(share, seed)
    assert len(held.documents) == max(1, round(share * count))
    assert Counter(train.documents + held.documents) == Counter(corpus.documents)
    for part in (train, held):
        assert part.documents == [f"text {label}" for label in part.labels]
        assert part.documents
    assert corpus.split(share, seed) == (train, held)


def test_another_seed_is_another_split():
    corpus = Corpus("x", [f"text {i}" for i in range(100)])
    assert corpus.split(0.1, 0)[1].documents != corpus.split(0.1, 1)[1].documents


def test_a_single_text_cannot_be_split():
    with pytest.raises(UserError, match="holds too few texts; give at least 2"):
        Corpus("it", ["one"]).split(0.1, 0)
