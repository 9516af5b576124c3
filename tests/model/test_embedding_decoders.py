"""Decoders that embed texts by their last token: vectors are sentence-transformers' own, from the
traced graph and from the emitted one, whichever class the weights were saved as."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny_builds import model_folder
from tiny_models import make_batch

from edgeprune.export.emit.emitted import emitted
from edgeprune.export.faces import Attended, generating
from edgeprune.export.trace import export_plain, trace
from edgeprune.model.assets import copy_assets
from edgeprune.model.checkpoint import open_checkpoint
from edgeprune.model.importing import import_checkpoint
from edgeprune.model.store import save_model
from edgeprune.runtime.bundle import Bundle
from edgeprune.runtime.embed import Embedder

TEXTS = ["w001 w002 w003 w010 w020 w044", "w005", "w007 w008"]
PROMPTS = {"query": "w050 w051 ", "document": ""}


@pytest.fixture(scope="module", params=["qwen3", "qwen3-fused", "llama"])
def library(request, tmp_path_factory) -> tuple[Path, Any]:
    """A folder like Qwen3-Embedding's, whose class is ForCausalLM, and sentence-transformers'
    model of it."""
    st = pytest.importorskip("sentence_transformers")
    from sentence_transformers.sentence_transformer import modules

    folder = tmp_path_factory.mktemp("library")
    source = model_folder(folder / "hf", request.param)
    settings = json.loads((source / "tokenizer_config.json").read_text())
    (source / "tokenizer_config.json").write_text(json.dumps(settings | {"padding_side": "left"}))
    chain = [
        modules.Transformer(str(source)),
        modules.Pooling(chain_width(source), "lasttoken"),
        modules.Normalize(),
    ]
    theirs = st.SentenceTransformer(modules=chain, device="cpu", prompts=PROMPTS)
    theirs.save(str(folder / "saved"))
    for place in folder.glob("saved/*.json"):
        if place.name != "config.json":
            (source / place.name).write_bytes(place.read_bytes())
    (source / "1_Pooling").mkdir()
    pooling = "1_Pooling/config.json"
    (source / pooling).write_bytes((folder / "saved" / pooling).read_bytes())
    return source, theirs


def chain_width(source: Path) -> int:
    width: int = json.loads((source / "config.json").read_text())["hidden_size"]
    return width


def test_vectors_are_the_librarys(library, tmp_path):
    source, theirs = library
    checkpoint = open_checkpoint(str(source))
    assert checkpoint.task == "feature-extraction"
    save_model(import_checkpoint(checkpoint), tmp_path / "stage")
    assert open_checkpoint(str(tmp_path / "stage")).task == "feature-extraction"
    export_plain(tmp_path / "stage", tmp_path / "traced")
    graph = emitted(tmp_path / "stage")
    assert graph is not None
    copy_assets(tmp_path / "stage", tmp_path / "emitted")
    (tmp_path / "emitted/onnx").mkdir()
    graph.save(tmp_path / "emitted/onnx/model.onnx")
    for prompt in (None, "query"):
        expected = theirs.encode(TEXTS, prompt_name=prompt)
        for form in ("traced", "emitted"):
            bundle = Bundle.open(tmp_path / form)
            assert bundle.task == "feature-extraction"
            found = Embedder(bundle, threads=1).embed(TEXTS, batch_size=3, prompt=prompt)
            np.testing.assert_allclose(found, expected, rtol=0, atol=5e-6)


def test_a_graph_that_kept_its_cache_embeds_the_same(library, tmp_path):
    source, theirs = library
    model = import_checkpoint(open_checkpoint(str(source)))
    attended = [block.attention for block in model.anatomy.blocks]
    layers = [Attended(each.num_key_value_heads, each.head_dim) for each in attended]
    copy_assets(source, tmp_path)
    (tmp_path / "onnx").mkdir()
    face = generating(model.module, "last_hidden_state", layers)
    trace(model.module, face, tmp_path / "onnx/model.onnx", plain=True)
    bundle = Bundle.open(tmp_path)
    assert any(name.startswith("present.") for name in bundle.outline.outputs)
    assert bundle.task == "feature-extraction"
    found = Embedder(bundle, threads=1).embed(TEXTS, batch_size=3)
    np.testing.assert_allclose(found, theirs.encode(TEXTS), rtol=0, atol=5e-6)


def test_no_later_token_is_seen(library, tmp_path):
    """As a causal decoder has it: a text's states do not depend on what follows."""
    source, _ = library
    model = import_checkpoint(open_checkpoint(str(source)))
    batch = make_batch(rows=1)
    ids = batch["input_ids"]
    with torch.no_grad():
        whole = model.module(ids).last_hidden_state[:, :4]
    graph = emitted(source)
    assert graph is not None
    graph.save(tmp_path / "model.onnx")
    import onnxruntime

    session = onnxruntime.InferenceSession(str(tmp_path / "model.onnx"))
    for length in (4, ids.shape[1]):
        feeds = {
            "input_ids": ids[:, :length].numpy(),
            "attention_mask": np.ones((1, length), np.int64),
        }
        [states] = session.run(["last_hidden_state"], feeds)
        np.testing.assert_allclose(states[:, :4], whole.numpy(), rtol=0, atol=2e-5)
