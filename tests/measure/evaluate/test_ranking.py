"""Rankings beside trec_eval's own code, of rerankers and sentence encoders."""

import json
from pathlib import Path

import numpy as np
import pytest
import pytrec_eval
from onnx_models import WORDS, classifier_folder, encoder_folder, write_jsonl

from edgeprune import runtime
from edgeprune.base.errors import UserError
from edgeprune.measure.evaluate import ranking as module
from edgeprune.measure.evaluate.measures import evaluate

QUERIES, DOCUMENTS = 12, 40


@pytest.fixture
def beir(tmp_path) -> Path:
    """Graded judgements of some documents, and candidates that lack some of the relevant ones."""
    rng = np.random.default_rng(0)
    texts = [" ".join(rng.choice(WORDS, 3 + n % 9)) for n in range(DOCUMENTS)]
    folder = tmp_path / "beir"
    folder.mkdir()
    write_jsonl(
        folder / "corpus.jsonl",
        [
            {"_id": f"d{n}", "title": f"{WORDS[n % 9]} {n}", "text": text}
            for n, text in enumerate(texts)
        ],
    )
    queries = [{"_id": f"q{n}", "text": f"{WORDS[n % 5]} {WORDS[n % 7]}"} for n in range(QUERIES)]
    write_jsonl(folder / "queries.jsonl", queries)
    judged = [
        f"q{query}\td{document}\t{rng.integers(0, 4)}"
        for query in range(QUERIES)
        for document in rng.permutation(DOCUMENTS)[:9]
    ]
    (folder / "qrels.tsv").write_text("\n".join(["query-id\tcorpus-id\tscore", *judged]))
    return folder


def as_trec(folder: Path, scores: dict[str, dict[str, float]]) -> dict[str, float]:
    """Means over queries by trec_eval."""
    lines = (folder / "qrels.tsv").read_text().splitlines()[1:]
    qrels: dict[str, dict[str, int]] = {}
    for query, document, grade in (line.split("\t") for line in lines):
        qrels.setdefault(query, {})[document] = int(grade)
    measures = {"ndcg_cut.10", "recall.10"}
    found = pytrec_eval.RelevanceEvaluator(qrels, measures).evaluate(scores)
    best = {
        query: dict(sorted(each.items(), key=lambda pair: -pair[1])[:10])
        for query, each in scores.items()
    }
    first = pytrec_eval.RelevanceEvaluator(qrels, {"recip_rank"}).evaluate(best)
    return {
        "ndcg_at_10": 100 * np.mean([each["ndcg_cut_10"] for each in found.values()]),
        "mrr_at_10": 100 * np.mean([each["recip_rank"] for each in first.values()]),
        "recall_at_10": 100 * np.mean([each["recall_10"] for each in found.values()]),
    }


def texts_of(folder: Path) -> tuple[dict[str, str], dict[str, str]]:
    corpus = map(json.loads, (folder / "corpus.jsonl").read_text().splitlines())
    queries = map(json.loads, (folder / "queries.jsonl").read_text().splitlines())
    return (
        {row["_id"]: row["text"] for row in queries},
        {row["_id"]: f"{row['title']} {row['text']}" for row in corpus},
    )


@pytest.mark.parametrize("listed", [False, True])
def test_a_reranker_is_judged_as_trec_eval_does(listed, beir, tmp_path):
    folder = classifier_folder(tmp_path / "model", labels=("score",))
    model = runtime.load(folder)
    queries, corpus = texts_of(beir)
    chosen = {name: list(corpus)[n : n + 25] for n, name in enumerate(queries)}
    if listed:
        lines = [f"{query}\t{name}" for query, names in chosen.items() for name in names]
        (beir / "candidates.tsv").write_text("\n".join(["query-id\tcorpus-id", *lines]))
    scores = {}
    for query, text in queries.items():
        names = chosen[query] if listed else list(corpus)
        # Sigmoids of large logits may be one in float32; their order is the logits'.
        found = model.values([(text, corpus[name]) for name in names])
        assert len(set(found)) > len(names) / 2
        # trec_eval puts equal scores in the reverse order of their names, and ours as they stand.
        scores[query] = {
            name: float(score) - 1e-9 * place
            for place, (name, score) in enumerate(zip(names, found, strict=True))
        }
    result = evaluate(folder, "ranking", beir)
    assert result.values == pytest.approx(as_trec(beir, scores), rel=1e-6)
    assert result.conditions["queries"] == QUERIES


def test_a_sentence_encoder_ranks_all_documents(beir, tmp_path):
    folder = encoder_folder(tmp_path / "model")
    model = runtime.load(folder)
    queries, corpus = texts_of(beir)
    documents = model.embed(list(corpus.values())).astype(np.float64)
    documents /= np.linalg.norm(documents, axis=1, keepdims=True)
    asked = model.embed(list(queries.values())).astype(np.float64)
    table = asked / np.linalg.norm(asked, axis=1, keepdims=True) @ documents.T
    scores = {
        query: {name: float(s) for name, s in zip(corpus, row, strict=True)}
        for query, row in zip(queries, table, strict=True)
    }
    result = evaluate(folder, "ranking", beir, limit=QUERIES)
    assert result.values == pytest.approx(as_trec(beir, scores), rel=1e-4)
    # A query none of whose candidates is there finds nothing, and the others are as they were.
    lines = [f"{query}\t{name}" for query in list(queries)[1:] for name in corpus]
    (beir / "candidates.tsv").write_text("\n".join(["query-id\tcorpus-id", *lines]))
    fewer = as_trec(beir, {name: ranks for name, ranks in scores.items() if name in [*queries][1:]})
    share = (QUERIES - 1) / QUERIES
    expected = {name: share * value for name, value in fewer.items()}
    assert evaluate(folder, "ranking", beir).values == pytest.approx(expected, rel=1e-4)


def test_rows_of_lists(tmp_path):
    """A query whose positive documents come first and third."""
    folder = classifier_folder(tmp_path / "model", labels=("score",))
    model, texts = runtime.load(folder), ["the cat", "a dog sat", "far away", "on a mat mat"]
    ranked = [found.document for found in model.rank("the mat", texts)]
    rows = [{"query": "the mat", "positive": ranked[0::2], "negative": ranked[1::2]}]
    data = write_jsonl(tmp_path / "a.jsonl", rows)
    found = evaluate(folder, "ranking", data).values
    ideal = 1 + 1 / np.log2(3)
    assert found["ndcg_at_10"] == pytest.approx(100 * (1 + 1 / 2) / ideal)
    assert (found["mrr_at_10"], found["recall_at_10"]) == (100, 100)
    data = write_jsonl(tmp_path / "b.jsonl", [{"query": "a", "positive": [], "negative": ["b"]}])
    with pytest.raises(UserError, match="the query 'a' has no positive document"):
        evaluate(folder, "ranking", data)


def test_too_many_pairs_are_refused(beir, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "MOST_PAIRS", 100)
    folder = classifier_folder(tmp_path / "model", labels=("score",))
    with pytest.raises(UserError, match=r"480 pairs .* candidates in candidates\.tsv"):
        evaluate(folder, "ranking", beir)
    assert evaluate(folder, "ranking", beir, limit=2).conditions["queries"] == 2


def test_pairs_that_were_cut_are_told_once(tmp_path, capsys):
    folder = classifier_folder(tmp_path / "m", ("score",), max_position_embeddings=8)
    long = " ".join(WORDS[:3] * 4)
    rows = [{"query": "the cat", "positive": [long], "negative": ["a dog"]} for _ in range(5)]
    found = evaluate(folder, "ranking", write_jsonl(tmp_path / "rows.jsonl", rows))
    told = " ".join(capsys.readouterr().err.split())
    assert told.count("Warning") == 1
    assert "5 of 10 texts are longer than the model's 8 tokens and were cut" in told
    assert found.conditions["texts_cut"] == 5
