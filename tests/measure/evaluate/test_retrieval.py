"""Agreement of neighbours against scikit-learn's."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx_models import WORDS, encoder_folder, ids_of, mixing, table

from edgeprune.base.errors import UserError
from edgeprune.measure.evaluate.measures import evaluate
from edgeprune.measure.evaluate.retrieval import nearest

neighbors = pytest.importorskip("sklearn.neighbors")


def others(vectors: np.ndarray, count: int) -> np.ndarray:
    """scikit-learn's nearest rows of each row by cosine, itself left out."""
    search = neighbors.NearestNeighbors(n_neighbors=count, metric="cosine", algorithm="brute")
    return search.fit(vectors).kneighbors(return_distance=False)


@settings(max_examples=25)
@given(st.integers(13, 700), st.integers(0, 2**32 - 1))
def test_the_nearest_are_scikit_learns(rows: int, seed: int) -> None:
    vectors = np.random.default_rng(seed).normal(size=(rows, 5))
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    np.testing.assert_array_equal(nearest(vectors, 10), others(vectors, 10))


def test_overlap_and_recall(tmp_path: Path) -> None:
    texts = [f"{a} {b} {c}" for a in WORDS[:4] for b in WORDS[4:7] for c in WORDS[7:]]
    (tmp_path / "t.txt").write_text("\n".join([*texts, texts[0], "", texts[3]]))
    ours, original = encoder_folder(tmp_path / "o", depth=3), encoder_folder(tmp_path / "w")
    result = evaluate(ours, "retrieval", tmp_path / "t.txt", against=original)
    plain = np.array([(table()[ids_of(text)] @ mixing()).mean(axis=0) for text in texts])
    theirs, found = others(plain, 10), others(plain @ mixing(seed=1) @ mixing(seed=2), 10)
    pairs = list(zip(theirs, found, strict=True))
    expected = {
        "overlap_at_10": 10 * np.mean([len(set(a) & set(b)) for a, b in pairs]),
        "recall_at_10": 100 * np.mean([a[0] in b for a, b in pairs]),
    }
    assert 20 < expected["overlap_at_10"] < 95
    assert result.values == pytest.approx(expected)
    assert result.conditions == {"texts": len(texts)}
    alike = evaluate(original, "retrieval", tmp_path / "t.txt", against=original)
    assert alike.values == {"overlap_at_10": 100, "recall_at_10": 100}


def test_too_few_texts_agree_by_themselves(tmp_path: Path) -> None:
    folder = encoder_folder(tmp_path / "m")
    (tmp_path / "t.txt").write_text("\n".join(["the cat", *WORDS, "the cat"]))
    with pytest.raises(UserError, match="has 11 different texts"):
        evaluate(folder, "retrieval", tmp_path / "t.txt", against=folder)


def test_an_index_of_two_models_vectors(tmp_path: Path) -> None:
    texts = [f"{a} {b} {c}" for a in WORDS[:4] for b in WORDS[4:7] for c in WORDS[7:]]
    (tmp_path / "t.txt").write_text("\n".join(texts))
    ours, original = encoder_folder(tmp_path / "o", depth=3), encoder_folder(tmp_path / "w")
    old = np.array([(table()[ids_of(text)] @ mixing()).mean(axis=0) for text in texts])
    new = old @ mixing(seed=1) @ mixing(seed=2)
    half = np.where(np.arange(len(texts))[:, None] % 2, new, old)

    def ten(queries: np.ndarray, index: np.ndarray) -> list[set[int]]:
        search = neighbors.NearestNeighbors(metric="cosine", algorithm="brute").fit(index)
        found = search.kneighbors(queries, len(index), return_distance=False)
        return [set([i for i in row if i != own][:10]) for own, row in enumerate(found)]

    wanted = ten(old, old)
    expected = {
        f"{name}_overlap_at_10": 10
        * np.mean([len(a & b) for a, b in zip(wanted, ten(queries, index), strict=True)])
        for name, queries, index in (
            ("new", new, new),
            ("new_queries", new, old),
            ("new_documents", old, new),
            ("half_new", new, half),
        )
    }
    result = evaluate(ours, "mixing", tmp_path / "t.txt", against=original)
    assert result.values == pytest.approx(expected)
    assert len(set(expected.values())) == 4
    plain = evaluate(ours, "retrieval", tmp_path / "t.txt", against=original)
    assert plain.values["overlap_at_10"] == pytest.approx(expected["new_overlap_at_10"])
    same = evaluate(original, "mixing", tmp_path / "t.txt", against=original)
    assert set(same.values.values()) == {100.0}
    wide = encoder_folder(tmp_path / "x", width=12)
    with pytest.raises(UserError, match="cannot stand in one index"):
        evaluate(wide, "mixing", tmp_path / "t.txt", against=original)


def test_texts_that_the_model_reads_in_part_are_counted(tmp_path: Path) -> None:
    folder = encoder_folder(tmp_path / "m", max_position_embeddings=8)
    texts = [*(f"{a} {b}" for a in WORDS for b in WORDS[:3]), " ".join(WORDS), " ".join(WORDS[1:])]
    (tmp_path / "t.txt").write_text("\n".join(texts))
    found = evaluate(folder, "cosine", tmp_path / "t.txt", against=encoder_folder(tmp_path / "w"))
    assert found.conditions == {"texts": 32, "texts_cut": 2}
