"""Languages: scripts as Unicode names letters, and batches that even languages out."""

import json
import os
import unicodedata
from collections import Counter
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
from onnx_models import VOCABULARY, WORDS, encoder_folder, write_jsonl

from edgeprune.base.budget import apportion
from edgeprune.text.corpus import Corpus
from edgeprune.text.languages import _BLOCKS, OTHER, languages, script
from edgeprune.text.settings import TextSettings
from edgeprune.text.sources import read_corpus
from edgeprune.text.text import Text

NAMES = {"CJK": "Han", "HIRAGANA": "Japanese", "KATAKANA": "Japanese", "HALFWIDTH": "Japanese"}


def test_blocks_are_in_order_and_hold_letters_of_their_script() -> None:
    ends = [end for start, last, _ in _BLOCKS for end in (start, last)]
    assert ends == sorted(ends)
    for start, last, name in _BLOCKS:
        letters = [chr(code) for code in range(start, last + 1) if chr(code).isalpha()]
        first = Counter(unicodedata.name(letter, "?").partition(" ")[0] for letter in letters)
        own = sum(count for word, count in first.items() if NAMES.get(word, word.title()) == name)
        # Phonetic letters, ligatures and marks have names of their own.
        assert own > 0.85 * len(letters) > 0, (name, first)
        assert script(letters[len(letters) // 2]) == name


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("La fin, 1999: «πάντα ῥεῖ».", "Greek"),
        ("東京タワーに行きました。", "Japanese"),
        ("我们今天上午去公园。", "Han"),
        ("그는 책을 읽는다 (book).", "Hangul"),
        ("北京的 Tsinghua University 大学生很多", "Han"),
        ("12:30, +49", OTHER),
        ("", OTHER),
    ],
)
def test_a_texts_script_is_that_of_most_letters(text: str, name: str) -> None:
    assert script(text) == name


def test_a_quotation_makes_no_language() -> None:
    latin, greek = ["a line of text"] * 199, ["πάντα ῥεῖ"]
    assert Counter(languages([*latin, *greek])) == {"Latin": 199, OTHER: 1}
    assert Counter(languages([*latin, *greek * 3])) == {"Latin": 199, "Greek": 3}
    named = languages([*latin, *greek], [*[None] * 199, "el"])
    assert Counter(named) == {"Latin": 199, "el": 1}


@pytest.mark.skipif("EDGEPRUNE_DATA" not in os.environ, reason="needs EDGEPRUNE_DATA")
def test_real_paragraphs() -> None:
    expected = {"en": "Latin", "es": "Latin", "ru": "Cyrillic", "zh": "Han", "ar": "Arabic"}
    for language, name in expected.items():
        file = Path(os.environ["EDGEPRUNE_DATA"]) / "multilingual" / f"xquad.{language}.jsonl"
        texts = [json.loads(line)["text"] for line in file.read_text("utf-8").splitlines()]
        assert set(map(script, texts)) == {name}


# what is drawn -----------------------------------------------------------------------------------

COUNTS = {"de": 90, "sw": 10}


def _corpus(labelled: bool = False) -> Corpus:
    rng, texts = np.random.default_rng(0), []
    while len(set(texts)) < 100:
        texts.append(" ".join(rng.choice(WORDS, int(rng.integers(9, 12)))))
    texts = list(dict.fromkeys(texts))
    named = ["de" if n % 10 else "sw" for n in range(100)]
    labels = [int(n % 20 == 0) for n in range(100)] if labelled else None
    return Corpus("made", texts, labels, named=named)


def _text(reads: str, balance: float, **more) -> Text:
    settings = TextSettings(
        max_tokens=12,
        batch_tokens=1200,
        held_out=0.4,
        held_out_samples=20,
        fragments=0,
        language_balance=balance,
        **more,
    )
    return Text(_corpus(reads == "labelled"), reads, settings, 0)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return encoder_folder(tmp_path_factory.mktemp("tokenizer"))


def _drawn(batches, corpus: Corpus) -> Counter:
    """Sequences of each language, told by their words."""
    joined = {name: " ".join(part.documents) for name, part in corpus.by_language.items()}
    found: Counter = Counter()
    for batch in batches:
        for row in batch.input_ids:
            words = " ".join(VOCABULARY[i] for i in row if i > 3)
            [language] = [name for name, text in joined.items() if words in text]
            found[language] += 1
    return found


@pytest.mark.parametrize("seed", range(5))
def test_some_of_every_language_is_held_out(seed: int) -> None:
    texts = [f"line number {n}" for n in range(97)] + ["πάντα ῥεῖ", "πάντα", "ἓν"]
    train, held_out = Corpus("made", texts).split(0.05, seed)
    assert Counter(train.languages) == {"Latin": 92, "Greek": 2}
    assert Counter(held_out.languages) == {"Latin": 5, "Greek": 1}
    assert sorted(train.documents + held_out.documents) == sorted(texts)
    alone = Corpus("made", [texts[0], "ἓν"]).split(0.5, seed)
    assert [len(part.documents) for part in alone] == [1, 1]


@pytest.mark.parametrize("reads", ["sentences", "labelled"])
@pytest.mark.parametrize("balance", [0.5, 1.0])
def test_languages_are_evened_out_exactly(folder, reads, balance) -> None:
    text = _text(reads, balance)
    sizes = Counter(text.train.languages)
    expected = apportion(60, [sizes[name] ** (1 - balance) for name in ("de", "sw")])
    reader = text.reader(folder)
    if reads == "labelled":  # a round is all training rows
        batches, total = [], 0
        for batch in reader.batches():
            batches.append(batch)
            total += len(batch.input_ids)
            if total == 60:
                break
        found = _drawn(batches, text.corpus)
        assert [found["de"], found["sw"]] == expected
    else:  # parts of rounds, in random order
        found = _drawn(islice(reader.batches(), 30), text.corpus)
        assert found["sw"] / found.total() == pytest.approx(expected[1] / 60, abs=0.05)
    held = _drawn(reader.held_out_batches(), text.corpus)
    sizes = Counter(text.held_out.languages)
    share = sizes["sw"] ** (1 - balance) / sum(size ** (1 - balance) for size in sizes.values())
    assert held.total() == 20
    assert held["sw"] == pytest.approx(20 * share, abs=1)


@pytest.mark.parametrize("reads", ["sentences", "labelled", "windows"])
def test_calibration_takes_as_much_of_each_language(folder, reads) -> None:
    text = _text(reads, 1.0)
    batches = text.reader(folder).calibration(8, lambda ids: np.zeros((len(ids), 2)))
    total = sum(len(batch.input_ids) for batch in batches)
    assert total == 8
    if reads != "windows":
        few = Counter(text.train.languages)["sw"]
        found = _drawn(batches, text.corpus)
        assert found == {"de": 8 - min(4, few), "sw": min(4, few)}


def test_windows_hold_one_language_each(folder) -> None:
    text = _text("windows", 1.0)
    found = _drawn(islice(text.reader(folder).batches(), 3), text.train)
    assert set(found) == {"de", "sw"}


def test_of_one_language_nothing_changes(folder) -> None:
    """Text whose language is named is split and drawn as text that says nothing of it."""
    settings, documents = _text("sentences", 0.0).settings, _corpus().documents
    text = Text(Corpus("made", documents, named=["de"] * 100), "sentences", settings, 0)
    plain = Text(Corpus("made", documents), "sentences", settings, 0)
    for one, other in zip(
        islice(text.reader(folder).batches(), 3),
        islice(plain.reader(folder).batches(), 3),
        strict=True,
    ):
        np.testing.assert_array_equal(one.input_ids, other.input_ids)


def test_the_field_of_a_language_may_have_another_name(tmp_path: Path) -> None:
    rows = [{"text": "a b c", "tongue": "nl"}, {"text": "d e f", "tongue": None}]
    data = write_jsonl(tmp_path / "rows.jsonl", rows)
    corpus = read_corpus([str(data)], fields={"lang": "tongue"})
    assert corpus.languages == ["nl", "Latin"]
    assert corpus.digest != read_corpus([str(data)]).digest
    two = read_corpus([str(data), str(data)], fields={"lang": "tongue"})
    assert list(two.by_language) == ["nl", "Latin"]
    line = Text(corpus, "windows", TextSettings(), 0).line
    assert line.endswith("(nl 1, Latin 1)")


def test_two_ways_of_groups_are_refused() -> None:
    with pytest.raises(ValueError, match="language_balance draws by language"):
        TextSettings(sampler="stratified", language_balance=0.5)
