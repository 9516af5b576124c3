"""Choice and cloze on the decoder whose logits are known in closed form."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import scipy.special
from choice_items import log_likelihood, random_items
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper
from onnx_models import WORDS, decoder_folder, decoder_logits, ids_of, write_jsonl
from tokenizers import Tokenizer as RustTokenizer
from tokenizers import decoders, models, pre_tokenizers, trainers

from edgeprune.base.errors import UserError
from edgeprune.measure.evaluate.likelihood import encode_pair, likelihoods
from edgeprune.measure.evaluate.measures import evaluate
from edgeprune.measure.evaluate.windows import opened
from edgeprune.runtime.bundle import Bundle
from edgeprune.runtime.generate import Generator
from edgeprune.runtime.tokenize import Tokenizer


def cacheless_folder(folder: Path) -> Path:
    """decoder_folder's model as a graph without a key-value cache."""
    decoder_folder(folder)
    model = onnx.load(folder / "model.onnx")
    nodes = [
        helper.make_node("Gather", ["table", "input_ids"], ["h"]),
        helper.make_node("CumSum", ["h", "axis"], ["sums"]),
        helper.make_node("MatMul", ["sums", "heads"], ["logits"]),
    ]
    weights = [each for each in model.graph.initializer if each.name in ("table", "heads")]
    weights.append(onnx.numpy_helper.from_array(np.array(1), "axis"))
    ids = helper.make_tensor_value_info("input_ids", TensorProto.INT64, ["b", "t"])
    logits = helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["b", "t", None])
    graph = helper.make_graph(nodes, "tiny", [ids], [logits], weights)
    onnx.save(
        helper.make_model(graph, opset_imports=model.opset_import, ir_version=8),
        folder / "model.onnx",
    )
    return folder


@pytest.mark.parametrize("make", [decoder_folder, cacheless_folder])
def test_choice_is_the_likeliest_plain_and_by_characters(tmp_path: Path, make: Any) -> None:
    rows = random_items()
    result = evaluate(make(tmp_path / "m"), "choice", write_jsonl(tmp_path / "r.jsonl", rows))
    plain, by_length = [], []
    for row in rows:
        logs = [log_likelihood(row["query"], choice) for choice in row["choices"]]
        lengths = [len(choice) for choice in row["choices"]]
        plain.append(int(np.argmax(logs)) == row["gold"])
        by_length.append(int(np.argmax(np.divide(logs, lengths))) == row["gold"])
    assert plain != by_length
    expected = {"acc": 100 * np.mean(plain), "acc_norm": 100 * np.mean(by_length)}
    assert result.values == pytest.approx(expected)
    assert result.conditions == {"items": 40}


def test_cloze_counts_greedy_words_and_whole_continuations(tmp_path: Path) -> None:
    contexts = ["the cat", "a dog sat on", "far", "the mat ran", "cat dog cat"]
    rows, greedy, logs = [], [], []
    for number, context in enumerate(contexts):
        likeliest = int(decoder_logits(ids_of(context)[:-1])[-1].argmax())
        word = WORDS[likeliest - 4] if likeliest >= 4 and number % 2 else "on mat"
        rows.append({"context": context, "continuation": word})
        greedy.append(likeliest == ids_of(word)[1] and " " not in word)
        logs.append(log_likelihood(context, word))
    assert 0 < sum(greedy) < len(greedy)
    folder = decoder_folder(tmp_path / "m")
    values = evaluate(folder, "cloze", write_jsonl(tmp_path / "r.jsonl", rows)).values
    assert values["accuracy"] == pytest.approx(100 * np.mean(greedy))
    assert values["perplexity"] == pytest.approx(math.exp(-np.mean(logs)), rel=1e-4)


def test_a_long_context_loses_its_left(tmp_path: Path) -> None:
    """As the harness: one token more than the model takes, for the last is not fed."""
    generator = Generator(Bundle.open(decoder_folder(tmp_path / "m", max_position_embeddings=6)))
    context, continuations = "the cat sat on a mat far away", [" the dog", " ran", " a"]
    found = likelihoods(generator, context, continuations)
    for continuation, each in zip(continuations, found, strict=True):
        ids = ids_of(context + continuation)[1:-1][-7:]
        logs = scipy.special.log_softmax(decoder_logits(ids).astype(np.float64), axis=1)
        last = len(continuation.split())
        expected = sum(logs[at - 1, ids[at]] for at in range(7 - last, 7))
        assert each.log == pytest.approx(expected, rel=1e-5)
    with pytest.raises(UserError, match="has 7 tokens and the model takes 6"):
        likelihoods(generator, "the", [" cat" * 7])


@pytest.fixture(scope="module")
def byte_level(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    """A byte-level tokenizer, to which white space matters."""
    folder = decoder_folder(tmp_path_factory.mktemp("bytes"))
    rust = RustTokenizer(models.BPE())
    rust.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    rust.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=300, initial_alphabet=alphabet, show_progress=False)
    rust.train_from_iterator(["the cat sat on a mat\nthe dog ran far away\n"] * 4, trainer)
    rust.save(str(folder / "tokenizer.json"))
    return Tokenizer(Bundle.open(folder))


some_text = st.text(st.sampled_from("theca t \n.é"), min_size=1, max_size=12)


@given(some_text, st.text(st.sampled_from(" \n"), max_size=3), some_text)
def test_white_space_between_belongs_to_the_continuation(
    byte_level: Tokenizer, context: str, space: str, continuation: str
) -> None:
    context = context.strip() or "the"
    before, after = encode_pair(byte_level, context + space, f" {continuation}")
    assert (before, after) == encode_pair(byte_level, context, f"{space} {continuation}")
    assert byte_level.text(before) == context
    assert byte_level.text(before + after) == f"{context}{space} {continuation}"


@pytest.mark.parametrize("opens", [True, False])
def test_a_text_is_opened_as_the_tokenizer_does_once_and_never_closed(
    tmp_path: Path, opens: bool
) -> None:
    generator = Generator(Bundle.open(decoder_folder(tmp_path / "m", opens)))
    words, given = ids_of("the cat sat")[1:-1], [1] if opens else []
    for text in ("the cat sat", "[CLS] the cat sat" if opens else "the cat sat"):
        assert opened(generator.tokenizer, text) == (given, words)
    assert encode_pair(generator.tokenizer, "the cat", " sat") == ([*given, *words[:2]], words[2:])
    [found] = likelihoods(generator, "the cat", [" sat"])
    logs = scipy.special.log_softmax(decoder_logits([*given, *words[:2]]).astype(np.float64), 1)
    assert found.log == pytest.approx(float(logs[-1, words[2]]), rel=1e-5)


def test_what_no_tokenizer_added_stays(tmp_path: Path) -> None:
    """Special tokens that a text writes are its own, but for those that would stand twice."""
    tokenizer = Tokenizer(Bundle.open(decoder_folder(tmp_path / "m")))
    words = ids_of("the cat")[1:-1]
    assert opened(tokenizer, "the [SEP] cat [SEP]") == ([1], [words[0], 2, words[1], 2])
    assert opened(tokenizer, "") == ([], [])


@pytest.mark.parametrize(
    ("row", "sentence"),
    [
        ({"query": "", "choices": ["cat", "dog"], "gold": 0}, "needs a context"),
        ({"query": " \n", "choices": ["cat", "dog"], "gold": 0}, "needs a context"),
        ({"query": "the", "choices": [" ", "dog"], "gold": 0}, "and some text"),
        ({"query": "the", "choices": ["", "dog"], "gold": 0}, "list of two texts or more"),
        ({"query": "the", "choices": "cat", "gold": 0}, "list of two texts or more"),
        ({"query": "the", "choices": ["cat"], "gold": 0}, "list of two texts or more"),
        ({"query": "the", "choices": ["cat", 1], "gold": 0}, "list of two texts or more"),
        ({"query": "the", "choices": ["cat", "dog"], "gold": 2}, "number, 0 to 1, and is 2"),
        ({"query": "the", "choices": ["cat", "dog"], "gold": -1}, "number, 0 to 1"),
        ({"query": "the", "choices": ["cat", "dog"], "gold": True}, "number, 0 to 1"),
        ({"query": "the", "choices": ["cat", "dog"]}, "no field 'gold'"),
        ({"query": 3, "choices": ["cat", "dog"], "gold": 0}, "'query' must be text"),
    ],
)
def test_a_row_that_is_no_item_is_named(tmp_path: Path, row: Any, sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        evaluate(decoder_folder(tmp_path / "m"), "choice", write_jsonl(tmp_path / "r.jsonl", [row]))
