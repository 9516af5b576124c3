"""Vectors in fewer bytes, and how many of the neighbours they find."""

import numpy as np
import pytest
from onnx_models import WORDS, encoder_folder

from edgeprune import runtime
from edgeprune.base.errors import UserError
from edgeprune.measure.evaluate.measures import evaluate
from edgeprune.runtime.compact import compact


def test_bits_are_sentence_transformers_own():
    from sentence_transformers.util.quantization import quantize_embeddings

    vectors = np.random.default_rng(0).normal(size=(7, 40)).astype(np.float32)
    expected = quantize_embeddings(vectors, "ubinary")
    np.testing.assert_array_equal(compact(vectors, "ubinary"), expected)


def test_int8_keeps_every_value_to_half_a_step():
    vectors = np.random.default_rng(0).normal(size=(7, 40)).astype(np.float32)
    vectors[3] = 0
    codes = compact(vectors, "int8")
    assert codes.dtype == np.int8
    steps = np.abs(vectors).max(axis=1, keepdims=True) / 127
    assert (np.abs(codes * steps - vectors) <= steps / 2 * 1.0001).all()
    with pytest.raises(UserError, match="no vectors of 'int4': take one of float32, int8, ubinary"):
        compact(vectors, "int4")


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    place = tmp_path_factory.mktemp("vectors")
    folder = encoder_folder(place / "encoder")
    rng = np.random.default_rng(0)
    texts = [" ".join(rng.choice(WORDS, 6)) for _ in range(90)]
    texts = list(dict.fromkeys(texts))
    (place / "texts.txt").write_text("\n".join(texts))
    values = evaluate(folder, "vectors", place / "texts.txt", against=folder).values
    return runtime.load(folder).embed(texts), values


def overlap(left: np.ndarray, right: np.ndarray) -> float:
    shares = [len(set(a) & set(b)) / 10 for a, b in zip(left, right, strict=True)]
    return 100 * float(np.mean(shares))


def ten(scores: np.ndarray) -> np.ndarray:
    scores = scores.astype(np.float64).copy()
    np.fill_diagonal(scores, -np.inf)
    return np.argsort(-scores, axis=1, kind="stable")[:, :10]


def test_overlaps_are_those_of_whole_matrices(found):
    vectors, values = found
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    cosine = ten(unit @ unit.T)
    codes = compact(vectors, "int8").astype(np.float64)
    codes /= np.linalg.norm(codes, axis=1, keepdims=True)
    bits = vectors > 0
    differing = (bits[:, None] != bits[None]).sum(axis=2)
    assert values["float32_overlap_at_10"] == 100
    assert values["int8_overlap_at_10"] == pytest.approx(
        overlap(cosine, ten(codes @ codes.T)), abs=1
    )
    assert values["binary_overlap_at_10"] == pytest.approx(overlap(cosine, ten(-differing)))


def test_more_bytes_find_more(found):
    _, values = found
    order = [values[f"{kind}_overlap_at_10"] for kind in ("binary", "binary_rescored", "int8")]
    assert order == sorted(order)
    assert order[-1] > 85
