"""Vectors of every setting of a sentence encoder are sentence-transformers' own: by the runtime
from a float32 graph, and in torch, where training reads them."""

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny_builds import model_folder

from edgeprune.compress.objectives.embedding import objective
from edgeprune.export.trace import export_plain
from edgeprune.model.assets import copy_assets
from edgeprune.model.checkpoint import open_checkpoint
from edgeprune.model.importing import import_checkpoint
from edgeprune.runtime.bundle import Bundle
from edgeprune.runtime.embed import Embedder

TEXTS = ["w001 w002 W003 w010 w020 w044", "w005", "w007 w008", "w009 " * 70, ""]
PROMPTS = {"query": "w050 w051 ", "passage": ""}


@pytest.fixture(scope="module")
def base(tmp_path_factory) -> Path:
    """A model in `hf`, and its graph in `plain`."""
    folder = tmp_path_factory.mktemp("base")
    model_folder(folder / "hf")
    export_plain(folder / "hf", folder / "plain")
    return folder


@pytest.fixture(scope="module")
def transformer(base) -> Any:
    st = pytest.importorskip("sentence_transformers.sentence_transformer.modules")
    return st.Transformer(str(base / "hf"))


def library_of(transformer: Any, pooling: Any, after: bool, include: bool, **said: Any) -> Any:
    """sentence-transformers' model that pools so, with further modules where `after`."""
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer import modules

    torch.manual_seed(0)
    pool = modules.Pooling(32, pooling, include_prompt=include)
    chain = [transformer, pool]
    if after:
        width = pool.get_embedding_dimension()
        dense = modules.Dense(width, 24, activation_function=torch.nn.Tanh())
        norm = modules.LayerNorm(24)
        with torch.no_grad():
            norm.norm.weight.uniform_(0.5, 2.0)
            norm.norm.bias.uniform_(-1.0, 1.0)
        chain += [dense, norm, modules.Normalize()]
    return SentenceTransformer(modules=chain, device="cpu", prompts=PROMPTS, **said)


def opened(theirs: Any, base: Path, folder: Path) -> Bundle:
    """The base's graph with the files that sentence-transformers saves beside the model."""
    theirs.save(str(folder / "saved"))
    copy_assets(folder / "saved", folder / "bundle")
    (folder / "bundle/config.json").write_bytes((base / "hf/config.json").read_bytes())
    (folder / "bundle/onnx").mkdir()
    os.link(base / "plain/onnx/model.onnx", folder / "bundle/onnx/model.onnx")
    return Bundle.open(folder / "bundle")


def assert_same(mine: np.ndarray, theirs: np.ndarray) -> None:
    """By cosine, and by length."""
    mine, theirs = mine.astype(np.float64), theirs.astype(np.float64)
    lengths = [np.linalg.norm(each, axis=1) for each in (mine, theirs)]
    assert ((mine * theirs).sum(axis=1) / (lengths[0] * lengths[1])).min() >= 1 - 1e-5
    np.testing.assert_allclose(*lengths, rtol=1e-4)


@pytest.mark.parametrize("prompt", ["none", "pooled", "left out"])
@pytest.mark.parametrize(
    ("pooling", "after"),
    [
        ("mean", True),
        ("cls", False),
        ("lasttoken", True),
        ("max", False),
        ("weightedmean", False),
        (("mean_sqrt_len_tokens", "max", "cls"), True),
    ],
)
def test_vectors_are_the_librarys(pooling, after, prompt, base, transformer, tmp_path):
    theirs = library_of(transformer, pooling, after, include=prompt != "left out")
    mine = Embedder(opened(theirs, base, tmp_path), threads=1)
    name = None if prompt == "none" else "query"
    assert_same(mine.embed(TEXTS, prompt=name), theirs.encode(TEXTS, prompt_name=name))


def test_all_combinations_differ(base, transformer, tmp_path):
    """Else the comparisons above would hold of a prompt that is never read."""
    found = []
    for number, (include, name) in enumerate([(True, None), (True, "query"), (False, "query")]):
        theirs = library_of(transformer, "mean", False, include)
        (tmp_path / str(number)).mkdir()
        bundle = opened(theirs, base, tmp_path / str(number))
        found.append(Embedder(bundle, threads=1).embed(TEXTS[:3], prompt=name))
    for left, right in ((0, 1), (0, 2), (1, 2)):
        assert np.abs(found[left] - found[right]).max() > 0.01


@pytest.mark.parametrize("include", [True, False])
def test_the_usual_prompt_and_width_hold_unasked_and_in_training(
    include, base, transformer, tmp_path
):
    said = {"default_prompt_name": "query", "truncate_dim": 20, "similarity_fn_name": "dot"}
    theirs = library_of(transformer, ("max", "mean"), True, include, **said)
    bundle = opened(theirs, base, tmp_path)
    mine = Embedder(bundle, threads=1)
    assert bundle.library.similarity == "dot"
    expected = theirs.encode(TEXTS)
    assert expected.shape == (len(TEXTS), 20)
    assert_same(mine.embed(TEXTS), expected)
    assert_same(mine.embed(TEXTS, prompt="passage"), theirs.encode(TEXTS, prompt_name="passage"))

    model = import_checkpoint(open_checkpoint(str(tmp_path / "saved")))
    ids, mask, _ = mine.tokenizer.pad(mine.tokenizer.encode(TEXTS[:3]))
    batch = {"input_ids": torch.from_numpy(ids), "attention_mask": torch.from_numpy(mask)}
    with torch.no_grad():
        answer: Any = objective(model).answer(model.run(batch), batch)
    unit = expected[:3] / np.linalg.norm(expected[:3], axis=1, keepdims=True)
    np.testing.assert_allclose(answer.numpy(), unit, rtol=0, atol=1e-5)


def test_an_unknown_prompt_is_refused_with_those_that_there_are(base, transformer, tmp_path):
    from edgeprune.base.errors import UserError

    mine = Embedder(opened(library_of(transformer, "mean", False, True), base, tmp_path), threads=1)
    with pytest.raises(
        UserError, match="no prompt 'queri': its prompts are document, passage, query "
    ):
        mine.embed(TEXTS, prompt="queri")


@pytest.mark.parametrize("by", ["cosine", "dot", "euclidean", "manhattan"])
def test_similarities_are_the_librarys(by):
    from sentence_transformers.util import (
        cos_sim,
        dot_score,
        euclidean_sim,
        manhattan_sim,
    )

    from edgeprune.measure.evaluate.similarity import each_with_each, pairwise

    rng = np.random.default_rng(0)
    left, right = (rng.normal(size=(n, 8)).astype(np.float32) for n in (5, 7))
    kinds = {"cosine": cos_sim, "dot": dot_score}
    kinds |= {"euclidean": euclidean_sim, "manhattan": manhattan_sim}
    expected = kinds[by](left, right).numpy()
    np.testing.assert_allclose(each_with_each(left, right, by), expected, atol=1e-5)
    own = np.diagonal(expected[:, :5])
    np.testing.assert_allclose(pairwise(left, right[:5], by), own, atol=1e-5)


def test_the_longest_text_is_the_librarys(base, tmp_path):
    """max_seq_length says it of the tokenizer, in place of model_max_length."""
    copy_assets(base / "plain", tmp_path)
    (tmp_path / "onnx").mkdir()
    os.link(base / "plain/onnx/model.onnx", tmp_path / "onnx/model.onnx")
    assert Bundle.open(tmp_path).max_length == 64
    said = tmp_path / "sentence_bert_config.json"
    for stated, longest in ((80, 80), (32, 32), (None, 64)):
        said.write_text(json.dumps({"max_seq_length": stated}))
        assert Bundle.open(tmp_path).max_length == longest
