"""Labels drawn evenly: exact counts, nothing before its turn, and the reader that draws them."""

from collections import Counter
from dataclasses import replace
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx_models import VOCABULARY, WORDS, encoder_folder

from edgeprune.base.budget import apportion
from edgeprune.text.balance import Evened, balanced_rows, label_counts, rarest
from edgeprune.text.corpus import Corpus
from edgeprune.text.settings import TextSettings
from edgeprune.text.text import Text

RNG = np.random.default_rng


def test_labels_are_counted_by_texts() -> None:
    assert label_counts([2, 0, 2]) == {0: 1, 2: 2}
    assert label_counts([[0, 0, 3], [0], []]) == {0: 2, 3: 1}
    assert label_counts([[0.0, 1.0, 1.0], [0.0, 0.0, 1.0]]) == {1: 1, 2: 2}
    assert label_counts([0.5, 2.0]) == {}
    assert label_counts([[(3, 7), (12, 14)], []]) == {}  # answers in a context


def test_a_text_counts_for_its_rarest_label() -> None:
    texts = [[0, 0, 0], [0, 1], [1, 2], [0], []]
    assert rarest(texts).tolist() == [0, 1, 2, 0, -1]


@given(st.lists(st.integers(0, 4), min_size=1, max_size=60), st.sampled_from([0.0, 0.5, 1.0]))
def test_counts_are_exact_and_in_turn(labels: list[int], balance: float) -> None:
    rows = balanced_rows(len(labels), [Evened(np.array(labels), balance)], RNG(0))
    sizes = Counter(labels)
    expected = apportion(
        len(labels),
        [sizes[label] ** (1 - balance) for label in sorted(sizes)],
        lower=[1] * len(sizes),
    )
    drawn = Counter(labels[row] for row in rows)
    assert [drawn[label] for label in sorted(sizes)] == expected
    often = Counter(rows.tolist())
    for label in sizes:
        times = [often[row] for row, own in enumerate(labels) if own == label]
        assert max(times) - min(times) <= 1
    if balance == 0:
        assert sorted(rows) == list(range(len(labels)))


def test_labels_are_evened_out_within_languages() -> None:
    """Of 90 rows in one language and 10 in another, each with a label of which there is one."""
    language = np.array([0] * 90 + [1] * 10)
    label = np.array([1] + [0] * 89 + [1] + [0] * 9)
    by = [Evened(language, 0.5), Evened(label, 1.0)]
    rows = balanced_rows(100, by, RNG(0))
    assert (language[rows] == 1).sum() == 25  # as roots of 90 and 10 are: 3 to 1
    assert Counter(zip(language[rows], label[rows], strict=True)) == {
        (0, 0): 38,
        (0, 1): 37,
        (1, 0): 13,
        (1, 1): 12,
    }


def _text(balance: float, tagged: bool = False) -> Text:
    """Sixty texts, of which one in twelve has another label, or a tag of it."""
    rng = RNG(0)
    texts = [" ".join(rng.choice(WORDS, 4)) + f" {WORDS[n % 7]}" for n in range(60)]
    labels: list = [int(n % 12 == 0) for n in range(60)]
    if tagged:
        labels = [[0, 0, label, 0, 0] for label in labels]
    settings = TextSettings(
        max_tokens=16, batch_tokens=4096, held_out=0.4, held_out_samples=24, balance=balance
    )
    return Text(Corpus("made", texts, labels), "tagged" if tagged else "labelled", settings, 0)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return encoder_folder(tmp_path_factory.mktemp("tokenizer"))


@pytest.mark.parametrize("tagged", [False, True])
@pytest.mark.parametrize("balance", [0.0, 1.0])
def test_training_sees_labels_as_evenly_as_asked(folder, balance, tagged) -> None:
    text = _text(balance, tagged)
    rare = Counter(rarest(text.train.labels).tolist())[1]
    assert 0 < rare < 9
    expected = 18 if balance else rare
    for batch in islice(text.reader(folder).batches(), 3):  # a round is one batch
        labels = batch.labels.max(1) if tagged else batch.labels
        assert (len(labels), (labels == 1).sum()) == (36, expected)


def test_the_held_out_loss_follows_and_stays_itself(folder) -> None:
    text = replace(_text(1.0), seed=1)  # both labels are held out
    first, again = (text.reader(folder).held_out_batches()[0] for _ in range(2))
    assert (first.labels == 1).sum() == 6
    assert np.array_equal(first.input_ids, again.input_ids)
    known = set(text.held_out.documents)
    shown = {" ".join(VOCABULARY[i] for i in row if i > 3) for row in first.input_ids}
    assert shown <= known
