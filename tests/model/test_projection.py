"""Linears after the pooling: vectors are sentence-transformers' own, in torch and from a graph."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_builds import model_folder

from edgeprune.base.errors import UserError
from edgeprune.compress.objectives.embedding import objective
from edgeprune.export.trace import export_plain
from edgeprune.model.checkpoint import open_checkpoint
from edgeprune.model.importing import import_checkpoint
from edgeprune.model.projection import read_steps
from edgeprune.model.store import load_model, save_model
from edgeprune.pipeline.keys import assets_digest
from edgeprune.runtime.bundle import Bundle
from edgeprune.runtime.embed import Embedder

TEXTS = ["w001 w002 w003 w010 w020 w044", "w005", "w007 w008"]


@pytest.fixture(scope="module")
def library(tmp_path_factory) -> tuple[Path, np.ndarray]:
    """A folder of sentence-transformers', and its vectors of TEXTS."""
    st = pytest.importorskip("sentence_transformers")
    from sentence_transformers.sentence_transformer import modules as models

    folder = tmp_path_factory.mktemp("library")
    model_folder(folder / "hf", "gemma3_text-encoder")
    torch.manual_seed(0)
    chain = [
        models.Transformer(str(folder / "hf")),
        models.Pooling(32, "mean"),
        models.Dense(32, 48, bias=False, activation_function=None),
        models.Dense(48, 24, bias=True, activation_function=None),
        models.Normalize(),
    ]
    theirs = st.SentenceTransformer(modules=chain, device="cpu")
    theirs.save(str(folder / "st"))
    return folder / "st", theirs.encode(TEXTS)


def test_vectors_are_the_librarys(library, tmp_path):
    """After a stage, whose folder holds the linears too."""
    source, expected = library
    save_model(import_checkpoint(open_checkpoint(str(source))), tmp_path / "stage")
    export_plain(tmp_path / "stage", tmp_path / "bundle")
    embedder = Embedder(Bundle.open(tmp_path / "bundle"))
    np.testing.assert_allclose(embedder.embed(TEXTS), expected, rtol=0, atol=2e-6)

    model = load_model(tmp_path / "stage")
    [encoded] = [embedder.tokenizer.encode(TEXTS[:1])]
    ids = torch.tensor([encoded[0].ids])
    batch = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    with torch.no_grad():
        answer: Any = objective(model).answer(model.run(batch), batch)
    np.testing.assert_allclose(answer.numpy(), expected[:1], rtol=0, atol=2e-6)


@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16])
def test_weights_in_half_precision(kind, library, tmp_path):
    copied(library[0], tmp_path)
    file = tmp_path / "3_Dense/model.safetensors"
    tensors = {name: tensor.to(kind) for name, tensor in load_file(file).items()}
    save_file(tensors, file)
    last = read_steps(tmp_path)[-2]
    np.testing.assert_array_equal(last.weight, tensors["linear.weight"].float().numpy())
    np.testing.assert_array_equal(last.bias, tensors["linear.bias"].float().numpy())


def copied(source: Path, folder: Path) -> None:
    """The files that say what comes after the pooling."""
    for file in (source / "modules.json", *source.glob("*_Dense/*")):
        (folder / file.relative_to(source)).parent.mkdir(exist_ok=True)
        (folder / file.relative_to(source)).write_bytes(file.read_bytes())


def test_other_weights_are_another_key(library, tmp_path):
    copied(library[0], tmp_path)
    before = assets_digest(tmp_path)
    file = tmp_path / "2_Dense/model.safetensors"
    save_file({name: tensor + 1 for name, tensor in load_file(file).items()}, file)
    assert assets_digest(tmp_path) != before


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"activation_function": "torch.nn.modules.activation.GLU"}, "is more than a linear"),
        ({"activation_function": None}, "is more than a linear"),
        ({"use_residual": True}, "use_residual True"),
        ({"module_output_name": "other"}, "from sentence_embedding to other"),
        ({"bias": True}, "does not hold the linear that its config.json speaks of"),
    ],
)
def test_what_is_not_a_linear_is_refused(settings, words, library, tmp_path):
    copied(library[0], tmp_path)
    file = tmp_path / "2_Dense/config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | settings))
    with pytest.raises(UserError, match=words):
        read_steps(tmp_path)


def test_linears_of_another_width_or_place_are_refused(library, tmp_path):
    copied(library[0], tmp_path)
    assert [step.weight.shape for step in read_steps(tmp_path, 32)[:2]] == [(48, 32), (24, 48)]
    with pytest.raises(UserError, match="reads vectors of 32 values, and what is before it gives"):
        read_steps(tmp_path, 64)
    modules = json.loads((tmp_path / "modules.json").read_text())
    (tmp_path / "modules.json").write_text(json.dumps([modules[0], modules[2], modules[1]]))
    with pytest.raises(UserError, match="chains Transformer, Dense, Pooling"):
        read_steps(tmp_path)
    modules[2]["path"] = "../2_Dense"
    (tmp_path / "modules.json").write_text(json.dumps(modules))
    with pytest.raises(UserError, match="no folder like 2_Dense"):
        read_steps(tmp_path)
