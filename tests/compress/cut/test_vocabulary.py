"""The trimmed model beside the original: the same answers at the tokens that are left."""

import json

import numpy as np
import pytest
import torch
import transformers
from tiny_builds import word_piece_tokenizer
from tiny_models import (
    CLASSIFIERS,
    DECODERS,
    ENCODERS,
    FILLERS,
    FUSED_DECODERS,
    MIXTURES,
    ODD_DECODERS,
    POST_NORMED,
    REPEATED,
    VOCABULARY,
    make_batch,
    make_model,
)
from tiny_tokenizers import tokenizer_json
from tokenizers import Tokenizer

from edgeprune.base.errors import UserError
from edgeprune.compress.cut.token_counts import compare_tokens, count_tokens
from edgeprune.compress.cut.tokenizer import tokens_to_keep, trim_tokenizer
from edgeprune.compress.cut.vocabulary import _counts, kept_rows, trim_model
from edgeprune.export.graph import Graph
from edgeprune.export.rewrite.verify import run_graph
from edgeprune.export.trace import export_onnx
from edgeprune.model.checkpoint import open_checkpoint
from edgeprune.model.store import load_model, save_model
from edgeprune.text.corpus import Corpus

FAMILY_NAMES = (
    *ENCODERS,
    *CLASSIFIERS,
    *FILLERS,
    *REPEATED[:2],
    *DECODERS,
    "granite",
    "lfm2",
    *ODD_DECODERS,
    *FUSED_DECODERS,
    *MIXTURES,
    *POST_NORMED,
    "gemma3_text-encoder",
)
# The first ids, of special tokens, and two of three of the others.
KEPT = [token for token in range(VOCABULARY) if token < 5 or token % 3]


def batches():
    """A batch of kept tokens, and the same in the trimmed model's ids."""
    batch = make_batch()
    ids = batch["input_ids"]
    new = torch.full((VOCABULARY,), -1)
    new[KEPT] = torch.arange(len(KEPT))
    old = torch.where(new[ids] < 0, 7, ids)  # another that is kept
    return batch | {"input_ids": old}, batch | {"input_ids": new[old]}


@torch.no_grad()
def outputs(model, batch):
    return model.module(**batch)[0]


@pytest.mark.parametrize("family", FAMILY_NAMES)
def test_answers_at_kept_tokens_are_those_of_the_original(family, tmp_path):
    model = make_model(family, tmp_path / "hf", unequal=False)
    old, new = batches()
    expected = outputs(model, old)
    if model.anatomy.head:
        expected = expected[..., KEPT]
    trim_model(model, KEPT)
    # Bit for bit but for the head, whose product the library may split in another way.
    torch.testing.assert_close(outputs(model, new), expected, rtol=0, atol=2e-6)
    save_model(model, tmp_path / "trimmed")
    again = load_model(tmp_path / "trimmed")
    torch.testing.assert_close(outputs(again, new), outputs(model, new), rtol=0, atol=0)
    seen = open_checkpoint(str(tmp_path / "trimmed")).anatomy
    assert seen.shape(seen.embeddings["word"])[0] == len(KEPT)
    assert seen.head is None or seen.shape(seen.head)[0] == len(KEPT)
    assert again.config["vocab_size"] == len(KEPT)


@pytest.mark.parametrize("family", ["roberta", "llama-fused", "gpt2"])
def test_the_graph_of_the_trimmed_model_answers_as_the_original(family, tmp_path):
    model = make_model(family, tmp_path / "hf", unequal=False)
    old, new = ({k: v.numpy() for k, v in batch.items()} for batch in batches())
    before = run_graph(Graph.load(export_onnx(model, tmp_path / "a")), [old])[0]
    trim_model(model, KEPT)
    save_model(model, tmp_path / "trimmed")
    graph = Graph.load(export_onnx(load_model(tmp_path / "trimmed"), tmp_path / "b"))
    after = run_graph(graph, [new])[0]
    assert before.keys() == after.keys()
    for name in before:
        wide = before[name][..., KEPT] if "logits" in name else before[name]
        np.testing.assert_allclose(after[name], wide, rtol=0, atol=1e-4, err_msg=name)


def test_transformers_reads_the_trimmed_folder(tmp_path):
    model = make_model("untied", tmp_path / "hf", unequal=False)
    old, new = batches()
    expected = outputs(model, old)[..., KEPT]
    trim_model(model, KEPT)
    save_model(model, tmp_path / "trimmed")
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "trimmed").eval()
    with torch.no_grad():
        torch.testing.assert_close(theirs(**new)[0], expected, rtol=0, atol=2e-6)


def test_settings_name_the_same_tokens(tmp_path):
    model = make_model("llama", tmp_path, unequal=False)
    named = {"eos_token_id": [7, 11], "pad_token_id": 130, "bos_token_id": None, "top_k": 7}
    model.config |= named | {"suppress_tokens": [8, -1], "bad_words_ids": [[8, 10], [11]]}
    kept = kept_rows(model, json.loads(word_piece_tokenizer(100).to_str()), {20, 40})
    assert {7, 8, 10, 11, 130} <= set(kept)
    trim_model(model, kept)
    place = kept.index
    assert model.config["eos_token_id"] == [place(7), place(11)]
    assert model.config["pad_token_id"] == place(130) == len(kept) - 1
    assert model.config["bos_token_id"] is None
    assert model.config["top_k"] == 7
    assert model.config["suppress_tokens"] == [place(8), -1]
    assert model.config["bad_words_ids"] == [[place(8), place(10)], [place(11)]]
    assert model.module.config.eos_token_id == [place(7), place(11)]


def test_padding_keeps_its_number_where_positions_count_from_it(tmp_path):
    tokenizer = json.loads(word_piece_tokenizer(100).to_str())
    for family, expected in (("roberta", True), ("bert", False)):
        model = make_model(family, tmp_path / family, unequal=False)
        model.config["pad_token_id"] = 40
        kept = kept_rows(model, tokenizer, {60})
        assert {40, 60} <= set(kept)
        assert (kept[:41] == list(range(41))) is expected


def test_a_tokenizer_of_another_model_is_refused(tmp_path):
    model = make_model("bert", tmp_path, unequal=False)
    with pytest.raises(UserError, match="do not belong together"):
        kept_rows(model, json.loads(tokenizer_json("wordpiece")), {1})


def test_counts_are_the_tokenizers_own():
    tokenizer = Tokenizer.from_str(tokenizer_json("wordpiece"))
    texts = ["playing the work"] * 300 + ["teachers"]
    counts = count_tokens(tokenizer, texts)
    single = tokenizer.encode(texts[0]).ids
    assert {counts[token] for token in single[1:-1]} == {300}
    assert counts[1] == counts[2] == 301
    assert counts.total() == sum(len(e.ids) for e in tokenizer.encode_batch(texts))


def test_what_is_said_of_held_out_text():
    tokenizer = Tokenizer.from_str(tokenizer_json("wordpiece"))
    content = json.loads(tokenizer_json("wordpiece"))
    kept = tokens_to_keep(content, set(tokenizer.encode("the works").ids))
    trimmed = Tokenizer.from_str(json.dumps(trim_tokenizer(content, kept)))
    for each in (tokenizer, trimmed):
        each.no_padding()
    texts = ["the works", "works", "the think"]  # think: t ##h ##i ##n ##k, not one token
    found = compare_tokens(tokenizer, trimmed, kept, texts)
    assert found["texts_same"] == pytest.approx(2 / 3)
    lengths = [len(tokenizer.encode(text).ids) for text in texts]
    lost = 1  # "think" is one token before
    assert found["tokens_kept"] == pytest.approx(1 - lost / sum(lengths))
    assert found["length"] == pytest.approx(1 + 4 / sum(lengths))
    assert (found["unknown_before"], found["unknown"]) == (0, 0)
    with pytest.raises(UserError, match="cannot be trimmed"):
        compare_tokens(tokenizer, trimmed, kept[::-1], ["the works"])  # other tokens


@pytest.mark.parametrize("kind", ["wordpiece", "unigram"])
def test_unknown_tokens_are_counted_before_and_after(kind):
    tokenizer = Tokenizer.from_str(tokenizer_json(kind))
    content = json.loads(tokenizer_json(kind))
    kept = tokens_to_keep(content, set(tokenizer.encode("the works").ids))
    trimmed = Tokenizer.from_str(json.dumps(trim_tokenizer(content, kept)))
    for each in (tokenizer, trimmed):
        each.no_padding()
    texts = ["the works", "the ᚠ works", "ᚠᚠ ᚠ"]
    found = compare_tokens(tokenizer, trimmed, kept, texts)
    for name, side in (("unknown_before", tokenizer), ("unknown", trimmed)):
        tokens = [token for text in texts for token in side.encode(text).tokens]
        known = {"[CLS]", "[SEP]", *side.get_vocab()} - {"[UNK]"}
        assert found[name] == sum(token not in known for token in tokens) > 0


def test_a_sentence_encoder_counts_each_use_once():
    tokenizer = Tokenizer.from_str(tokenizer_json("wordpiece"))
    tokenizer.no_padding()
    corpus = Corpus("here", ["playing the work. The teachers sing the work.", "sing"])
    [play] = tokenizer.encode("sing", add_special_tokens=False).ids
    for kind in ("sentences", "labelled", "windows"):
        assert _counts(tokenizer, corpus, kind)[play] == 2
