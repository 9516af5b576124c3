"""Rankings of documents for queries: nDCG, MRR and recall at ten, as trec_eval computes them."""

from collections.abc import Sequence

import numpy as np

from edgeprune import runtime
from edgeprune.base.errors import UserError
from edgeprune.base.progress import track
from edgeprune.measure.evaluate.data import Data
from edgeprune.measure.evaluate.result import Quality, percentages
from edgeprune.measure.evaluate.similarity import each_with_each
from edgeprune.runtime.bundle import Bundle
from edgeprune.runtime.embed import Embedder
from edgeprune.runtime.rank import Ranker, order
from edgeprune.text.judged import LISTS, Judged, judged_rows, read_beir

DEPTH = 10
MOST_PAIRS = 100_000
"""Pairs that a reranker scores at most, some hours of one core."""
_PROMPTS = {"query": ("query",), "document": ("document", "passage", "corpus")}


def ranking(bundle: Bundle, data: Data) -> Quality:
    """nDCG, MRR and recall of the ten best documents of each query, times 100.

    ndcg_at_10: the sum of relevance / log2(rank + 1) over that of the best order of all relevant
    documents (Järvelin and Kekäläinen, 2002, with the relevance itself as the gain). mrr_at_10: 1 /
    rank of the first relevant document, 0 beyond the tenth. recall_at_10: the share of relevant
    documents that are among the ten.

    `data` has rows with a `query`, `positive` and `negative` documents, or is a BEIR folder, whose
    documents are all ranked or, with a candidates.tsv, those that it lists. A reranker scores
    pairs; a sentence encoder ranks by its similarity, with its prompts for queries and documents.
    """
    items, groups = read(data)
    scores = np.array(
        [
            _values(item, found)
            for item, found in zip(items, _scores(bundle, items, data.place), strict=True)
        ]
    )
    names = ("ndcg_at_10", "mrr_at_10", "recall_at_10")
    conditions = {"queries": len(items), "documents": sum(len(item.documents) for item in items)}
    return Quality(dict(zip(names, scores.T, strict=True)), percentages, conditions, groups)


def read(data: Data) -> tuple[list[Judged], list[str] | None]:
    """The queries with their documents, and the groups of these where the data has some.

    Raises:
        UserError: the data is of neither form, or a query has no relevant document.
    """
    if data.path.is_dir():
        return data.limited(read_beir(data.path)), None
    rows = data.rows(LISTS)
    items = judged_rows(rows, data.place)
    for item in items:
        if not any(item.relevance):
            raise UserError(f"{data.place}: the query {item.query!r:.60} has no positive document.")
    return items, data.groups(rows)


def _scores(bundle: Bundle, items: Sequence[Judged], place: str) -> list[np.ndarray]:
    """Of each query the scores of its documents."""
    model = runtime.load(bundle)
    if isinstance(model, Embedder):
        return _similarities(model, items)
    assert isinstance(model, Ranker)
    pairs = sum(len(item.documents) for item in items)
    if pairs > MOST_PAIRS:
        raise UserError(
            f"{place} has {pairs:,} pairs of a query and a document, and a reranker scores "
            f"{MOST_PAIRS:,} at most: list each query's candidates in candidates.tsv (query-id, "
            "corpus-id), or give a --limit of queries."
        )
    with model.tokenizer.counting():
        return [
            model.values([(item.query, document) for document in item.documents])
            for item in track(items, "ranking", len(items))
        ]


def _similarities(model: Embedder, items: Sequence[Judged]) -> list[np.ndarray]:
    texts = {text: number for number, text in enumerate({d: 0 for i in items for d in i.documents})}
    prompts = model.bundle.library.prompts
    asked, answered = (
        next((name for name in names if name in prompts), None) for names in _PROMPTS.values()
    )
    documents = model.embed(list(texts), prompt=answered)
    queries = model.embed([item.query for item in items], prompt=asked)
    by = model.bundle.library.similarity
    places = [np.array([texts[text] for text in item.documents], np.int64) for item in items]
    return [
        each_with_each(query[None], documents[rows], by)[0]
        for query, rows in zip(queries, places, strict=True)
    ]


def _values(item: Judged, scores: np.ndarray) -> tuple[float, float, float]:
    """nDCG, reciprocal rank and recall of one query."""
    ranked = np.array([item.relevance[index] for index in order(scores.tolist())[:DEPTH]])
    relevant = [*(grade for grade in item.relevance if grade > 0), *item.missing]
    best = np.array(sorted(relevant, reverse=True)[:DEPTH])
    hits = np.flatnonzero(ranked > 0)
    first = 1 / (hits[0] + 1) if len(hits) else 0.0
    return _gain(ranked) / _gain(best), first, len(hits) / len(relevant)


def _gain(relevance: np.ndarray) -> float:
    return float((relevance / np.log2(np.arange(2, len(relevance) + 2))).sum())
