"""Batches that lose nothing, of whole texts, fragments and windows."""

from collections import Counter
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
from onnx_models import VOCABULARY, WORDS, encoder_folder

from edgeprune.base.errors import UserError
from edgeprune.text.batches import LENGTH_STEP, Batch
from edgeprune.text.corpus import Corpus
from edgeprune.text.reader import Reader
from edgeprune.text.settings import TextSettings
from edgeprune.text.text import Text


@pytest.fixture(scope="module")
def model_folder(tmp_path_factory) -> Path:
    """A folder with a word-level tokenizer that puts [CLS] and [SEP] around a text."""
    return encoder_folder(tmp_path_factory.mktemp("tokenizer"))


def make_corpus(count: int = 60, labelled: bool = False, seed: int = 0) -> Corpus:
    """Documents of one sentence each, all different, of 3 to 30 words."""
    rng = np.random.default_rng(seed)
    texts: dict[str, None] = {}
    while len(texts) < count:
        texts.setdefault(" ".join(rng.choice(WORDS, int(rng.integers(3, 31)))))
    labels = [int(label) for label in rng.integers(0, 3, count)] if labelled else None
    return Corpus("made", list(texts), labels)


def reader(folder: Path, kind: str, corpus: Corpus | None = None, seed: int = 0, **text) -> Reader:
    text = {"max_tokens": 16, "batch_tokens": 64, "fragments": 0, **text}
    corpus = corpus or make_corpus(labelled=kind == "labelled")
    return Text(corpus, kind, TextSettings(**text), seed).reader(folder)


def texts_of(batch: Batch) -> list[str]:
    """The words of each row."""
    return [
        " ".join(VOCABULARY[i] for i, real in zip(ids, mask, strict=True) if real and i > 3)
        for ids, mask in zip(batch.input_ids, batch.attention_mask, strict=True)
    ]


def word_ids(text: str) -> list[int]:
    return [1, *(VOCABULARY.index(word) for word in text.split()), 2]


@pytest.mark.parametrize("kind", ["sentences", "labelled", "windows"])
def test_no_step_trains_on_held_out_text(kind, model_folder):
    made = reader(model_folder, kind, max_tokens=64, batch_tokens=256, held_out=0.3)
    forbidden = set(made.held_out.documents)
    seen = [text for batch in islice(made.batches(), 60) for text in texts_of(batch)]
    if kind == "windows":
        assert not [text for text in forbidden if len(text) > 60 and text in " ".join(seen)]
    else:
        assert not forbidden & set(seen)
        shown = {text for batch in made.held_out_batches() for text in texts_of(batch)}
        assert shown == forbidden  # all of it, and plain


@pytest.mark.parametrize("kind", ["sentences", "labelled"])
def test_batches_hold_whole_texts_within_their_tokens(kind, model_folder):
    made = reader(model_folder, kind, max_tokens=12, batch_tokens=64)
    documents = [*made.train.documents, *made.held_out.documents]
    whole = {(*word_ids(text)[:-1][:11], 2) for text in documents}
    for batch in islice(made.batches(), 40):
        ids, mask = batch.input_ids, batch.attention_mask
        assert ids.dtype == mask.dtype == np.int64
        assert ids.size <= 64
        longest = int(mask.sum(1).max())
        assert ids.shape[1] == min(12, -(-longest // LENGTH_STEP) * LENGTH_STEP)
        for row, real in zip(ids, mask, strict=True):
            length = int(real.sum())
            assert real[:length].all()  # padding stands at the end
            assert not row[length:].any()  # and is the padding id
            assert tuple(row[:length]) in whole


def test_a_round_of_labelled_text_loses_nothing(model_folder):
    """Every training row once a round, with its own label, in any number of batches."""
    made = reader(model_folder, "labelled", max_tokens=64)
    train = made.train
    expected = Counter(zip(train.documents, train.labels, strict=True))
    batches = made.batches()
    for _ in range(2):
        seen: Counter = Counter()
        while sum(seen.values()) < len(train.documents):
            batch = next(batches)
            seen += Counter(zip(texts_of(batch), batch.labels.tolist(), strict=True))
        assert seen == expected


def test_sequences_of_like_length_stand_together(model_folder):
    made = reader(model_folder, "sentences", max_tokens=64, batch_tokens=256)
    batches = list(islice(made.batches(), 64))
    share = sum(b.attention_mask.sum() for b in batches) / sum(b.input_ids.size for b in batches)
    # 3 to 30 words at random would fill little more than half.
    assert share > 0.75
    widths = [b.input_ids.shape[1] for b in batches]
    assert len(set(widths)) <= 32 // LENGTH_STEP
    assert widths != sorted(widths, reverse=True)  # batches come in any order


def test_full_batches_of_one_length_have_one_shape(model_folder):
    """Of each width, one batch at most is not full: the last of its round."""
    made = reader(model_folder, "sentences", max_tokens=64, batch_tokens=256, held_out=0.49)
    rows: dict[int, list[int]] = {}
    for batch in made.held_out_batches():
        rows.setdefault(batch.input_ids.shape[1], []).append(len(batch.input_ids))
    for width, counts in rows.items():
        assert all(count == 256 // width for count in counts[:-1])
        assert counts[-1] <= 256 // width


def test_held_out_batches_are_few_and_of_falling_length(model_folder):
    made = reader(model_folder, "sentences", held_out=0.4, held_out_samples=10)
    batches = made.held_out_batches()
    assert sum(len(b.input_ids) for b in batches) == 10
    widths = [b.input_ids.shape[1] for b in batches]
    assert widths == sorted(widths, reverse=True)


def test_windows_are_the_running_text(model_folder):
    made = reader(model_folder, "windows", max_tokens=16, batch_tokens=64)
    for part, batches in ((made.train, None), (made.held_out, made.held_out_batches())):
        joined = [i for text in part.documents for i in word_ids(text)]
        expected = [tuple(joined[i : i + 16]) for i in range(0, len(joined) - 15, 16)]
        if batches is None:
            rounds = len(expected) // 4
            batches = list(islice(made.batches(), rounds))
            rows = [tuple(row) for batch in batches for row in batch.input_ids]
            assert len(rows) == rounds * 4
            assert not Counter(rows) - Counter(expected)  # none twice, none that is not there
            assert all(len(batch.input_ids) == 4 for batch in batches)
        else:
            rows = [tuple(row) for batch in batches for row in batch.input_ids]
            assert rows == expected  # in order, to the last whole window
        assert all(batch.attention_mask.all() for batch in batches)


def test_too_little_text_for_a_window_is_refused(model_folder):
    made = reader(model_folder, "windows", make_corpus(3), max_tokens=512)
    with pytest.raises(UserError, match=r"less than one window of 512.*smaller text.max_tokens"):
        next(made.batches())


@pytest.mark.parametrize("kind", ["sentences", "labelled", "windows"])
def test_seeds_and_purposes(kind, model_folder):
    def first(seed: int = 0, purpose: str = "") -> list[tuple]:
        made = reader(model_folder, kind, seed=seed, fragments=0.5)
        batches = islice(made.batches(purpose), 5)
        return [tuple(row) for batch in batches for row in batch.input_ids]

    assert first() == first()
    assert first() != first(seed=1)
    assert first(purpose="prune") == first(purpose="prune")
    assert len({tuple(first(purpose=p)) for p in ("", "prune", "recover")}) == 3


def test_a_folder_without_a_tokenizer_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"no tokenizer\.json"):
        Text(make_corpus(), "sentences", TextSettings(), 0).reader(tmp_path)


def test_text_without_sentences_is_refused(model_folder):
    made = reader(model_folder, "sentences", Corpus("it", ["a cat", "no"] * 5))
    with pytest.raises(UserError, match="it holds no sentence of three words"):
        next(made.batches())


# views ---------------------------------------------------------------------------------------


def test_a_round_of_sentences_loses_nothing_and_has_one_fragment_of_each(model_folder):
    """Every sentence once a round, and whatever the purpose the same few words out of it."""
    made = reader(model_folder, "sentences", max_tokens=64, fragments=1.0)
    count = len(made.train.sentences.texts)

    def one_round(batches):
        seen: Counter = Counter()
        while sum(seen.values()) < count:
            seen += Counter(texts_of(next(batches)))
        return seen

    batches = made.batches("first")
    first = one_round(batches)
    assert sum(first.values()) == count
    assert one_round(batches) == first == one_round(made.batches("second"))
    plain = one_round(reader(model_folder, "sentences", max_tokens=64).batches())
    assert plain == Counter(made.train.sentences.texts)


@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
def test_fragments_come_as_often_as_asked(share, model_folder):
    made = reader(model_folder, "sentences", max_tokens=64, batch_tokens=512, fragments=share)
    known = {tuple(word_ids(t)) for t in make_corpus().documents}
    whole = [
        tuple(row[: int(mask.sum())]) in known
        for batch in islice(made.batches(), 30)
        for row, mask in zip(batch.input_ids, batch.attention_mask, strict=True)
    ]
    # A short text's fragment may be the whole of it.
    assert 1 - share <= np.mean(whole) + 0.05
    assert np.mean(whole) <= 1 - share / 2
