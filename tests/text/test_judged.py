"""Judged documents: rows of lists become pairs, and BEIR's folders are read."""

import json
from pathlib import Path

import pytest
from onnx_models import write_jsonl

from edgeprune.base.errors import UserError
from edgeprune.text import files
from edgeprune.text.judged import Judged, read_beir
from edgeprune.text.sources import read_corpus


def beir(folder: Path, qrels: str = "qrels.tsv", **files: str) -> Path:
    """Three queries, of which the last has no relevant document, and four documents."""
    (folder / qrels).parent.mkdir(parents=True, exist_ok=True)
    documents = [{"_id": n, "title": f"t{n}" * (n != "d2"), "text": f"x{n}"} for n in IDS]
    write_jsonl(folder / "corpus.jsonl", documents)
    write_jsonl(folder / "queries.jsonl", [{"_id": n, "text": f"q {n}"} for n in ("a", "b", "c")])
    lines = [
        "query-id\tcorpus-id\tscore",
        "a\td1\t2",
        "a\td3\t0",
        "b\td4\t1",
        "b\td2\t1",
        "c\td2\t0",
    ]
    (folder / qrels).write_text("\n".join(lines) + "\n")
    for name, content in files.items():
        (folder / f"{name}.tsv").write_text(content)
    return folder


IDS = ("d1", "d2", "d3", "d4")


def test_lists_become_pairs_with_a_score(tmp_path):
    rows = [
        {"query": "q", "positive": ["a", "b"], "negative": ["c"], "lang": "en"},
        {"query": "r", "positive": "d", "negative": [], "lang": "de"},
    ]
    path = write_jsonl(tmp_path / "a.jsonl", rows)
    found = read_corpus([str(path)], ["LABEL_0"], form="scored", group_field="lang")
    assert found.documents == [("q", "a"), ("q", "b"), ("q", "c"), ("r", "d")]
    assert found.labels == [1, 1, 0, 1]
    assert found.groups == ["en", "en", "en", "de"]


def test_a_field_that_is_no_list_is_refused(tmp_path):
    path = write_jsonl(tmp_path / "a.jsonl", [{"query": "q", "positive": [1], "negative": []}])
    with pytest.raises(UserError, match="'positive' must be a list of texts, not"):
        read_corpus([str(path)], ["LABEL_0"], form="scored")


@pytest.mark.parametrize("qrels", ["qrels.tsv", "qrels/test.tsv"])
def test_a_beir_folder_with_all_documents(qrels, tmp_path):
    first, second = read_beir(beir(tmp_path, qrels))
    texts = ["td1 xd1", "xd2", "td3 xd3", "td4 xd4"]
    assert first == Judged("q a", texts, [2, 0, 0, 0], [])
    assert second == Judged("q b", texts, [0, 1, 0, 1], [])


def test_a_beir_folder_with_candidates(tmp_path):
    listed = "query-id\tcorpus-id\na\td3\na\tnone\nb\td2\nb\td1\n"
    first, second = read_beir(beir(tmp_path, candidates=listed))
    assert first == Judged("q a", ["td3 xd3"], [0], [2])
    assert second == Judged("q b", ["xd2", "td1 xd1"], [1, 0], [1])


def test_other_folders_are_refused(tmp_path):
    folder = beir(tmp_path)
    (folder / "qrels.tsv").write_text("head\na\td1\tgood\n")
    with pytest.raises(UserError, match="the judgement 'good' is no whole number"):
        read_beir(folder)
    (folder / "qrels.tsv").write_text("head\nc\td1\t0\n")
    with pytest.raises(UserError, match=r"no query of queries\.jsonl has a relevant document"):
        read_beir(folder)
    (folder / "qrels.tsv").unlink()
    with pytest.raises(UserError, match=r"has no qrels\.tsv nor qrels/test\.tsv"):
        read_beir(folder)
    (folder / "corpus.jsonl").write_text(json.dumps({"_id": "d1"}))
    with pytest.raises(UserError, match="no field 'text'"):
        read_beir(folder)


@pytest.mark.parametrize("field", ["query", "positive", "negative"])
def test_a_row_that_lacks_a_field_is_refused(field, tmp_path):
    whole = {"query": "q", "positive": ["a"], "negative": []}
    rows = [whole, {name: value for name, value in whole.items() if name != field}]
    path = write_jsonl(tmp_path / "a.jsonl", rows)
    with pytest.raises(UserError, match=f"a row has no '{field}'"):
        read_corpus([str(path)], ["LABEL_0"], form="scored")


def test_judgements_that_would_be_lost_are_refused(tmp_path):
    folder = beir(tmp_path)
    (folder / "qrels.tsv").write_text("a\td1\t2\nb\td2\t1\n")
    with pytest.raises(UserError, match="begins with a judgement, which would be lost"):
        read_beir(folder)
    (folder / "qrels.tsv").write_bytes(b"head\na\td1\t1\xff\n")
    with pytest.raises(UserError, match="not UTF-8 text"):
        read_beir(folder)
    (folder / "qrels.tsv").write_text("head\na\tother\t1\n")
    with pytest.raises(UserError, match=r"no relevant document of .* is among those to be ranked"):
        read_beir(folder)


@pytest.mark.parametrize("seed", range(5))
def test_a_query_is_on_one_side_of_the_split(seed, tmp_path):
    rows = [
        {"query": f"query {n}", "positive": [f"good {n}"], "negative": [f"bad {n}"] * (n % 5)}
        for n in range(40)
    ]
    plain = [{"text": f"query {n}", "text_pair": f"more {n}", "score": n / 9} for n in range(9)]
    places = [write_jsonl(tmp_path / "a.jsonl", rows), write_jsonl(tmp_path / "b.jsonl", plain)]
    corpus = read_corpus(list(map(str, places)), ["LABEL_0"], form="scored")
    parts = corpus.split(0.2, seed)
    assert sum(len(part.documents) for part in parts) == len(corpus.documents)
    judged = [
        {query for query, text in part.documents if text.split()[0] in ("good", "bad")}
        for part in parts
    ]
    assert not judged[0] & judged[1]
    assert len(judged[1]) > 1
    # A query has five documents at most, so that a unit more or less is at most three away.
    assert abs(len(parts[1].documents) - 0.2 * len(corpus.documents)) <= 3
    alone = read_corpus([str(write_jsonl(tmp_path / "c.jsonl", rows[4:5]))], ["L"], form="scored")
    with pytest.raises(UserError, match="documents of too few queries"):
        alone.split(0.2, seed)


def test_a_file_is_read_once(tmp_path, monkeypatch):
    judged = [{"query": "q", "positive": ["a"], "negative": ["b"]}]
    plain = [{"text": "q", "text_pair": "a", "score": 1.0}]
    read = []
    monkeypatch.setattr(
        files, "read_text", lambda path: read.append(path) or path.read_text(encoding="utf-8")
    )
    for rows, name in ((judged, "judged.jsonl"), (plain, "plain.jsonl")):
        path = write_jsonl(tmp_path / name, rows)
        read_corpus([str(path)], ["LABEL_0"], form="scored")
    assert [path.name for path in read] == ["judged.jsonl", "plain.jsonl"]
