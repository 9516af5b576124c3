"""ModernBERT as its configurations state it: in the words of either version, or not at all."""

import json
import shutil
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from prospects import facts_of
from tiny_models import VOCABULARY, make_batch, make_model

from edgeprune.base.errors import UserError
from edgeprune.compress.cut.depth import drop_layers
from edgeprune.compress.cut.row import CUT
from edgeprune.compress.cut.surgery import keep_layers
from edgeprune.export.emit.emitted import emitted
from edgeprune.export.graph import Graph
from edgeprune.export.trace import export_plain
from edgeprune.model.checkpoint import open_checkpoint
from edgeprune.model.families import find_family
from edgeprune.model.importing import import_checkpoint
from edgeprune.model.model import Model
from edgeprune.model.store import load_model, save_model
from edgeprune.pipeline.recipe import validate
from edgeprune.runtime.session import open_session

torch.set_num_threads(1)
_SIZES = {
    "vocab_size": VOCABULARY,
    "hidden_size": 16,
    "intermediate_size": 12,
    "num_hidden_layers": 5,
    "num_attention_heads": 2,
    "max_position_embeddings": 256,
    "pad_token_id": 1,
    **dict.fromkeys(("bos_token_id", "eos_token_id", "cls_token_id", "sep_token_id"), 2),
}
_KINDS = ["full_attention", "sliding_attention"]
_THETAS = {"full_attention": 700.0, "sliding_attention": 30.0}
_SAID = {
    "new": {
        "layer_types": [_KINDS[layer % 2] for layer in range(5)],
        "rope_parameters": {
            kind: {"rope_type": "default", "rope_theta": theta} for kind, theta in _THETAS.items()
        },
    },
    "old": {
        "global_attn_every_n_layers": 2,
        "global_rope_theta": 700.0,
        "local_rope_theta": 30.0,
    },
}


def states(module: Any, tokens: int) -> torch.Tensor:
    with torch.no_grad():
        return module(**make_batch(tokens=tokens))[0][
            make_batch(tokens=tokens)["attention_mask"] == 1
        ]


def drift(model: Model, graph: Graph, batch: dict[str, torch.Tensor]) -> float:
    """Largest difference of a graph's answer from torch's, at real tokens, over the mean square."""
    with torch.no_grad():
        wanted = model.module(**batch)[0].numpy()
    session = open_session(graph.save_for_session(), threads=1)
    [got] = session.run(None, {name: value.numpy() for name, value in batch.items()})
    kept = slice(None) if wanted.ndim == 2 else batch["attention_mask"].numpy() == 1
    return float(np.abs(got - wanted)[kept].max() / np.sqrt(np.square(wanted[kept]).mean()))


@pytest.fixture(scope="module")
def saved(tmp_path_factory) -> Path:
    torch.manual_seed(0)
    config = transformers.ModernBertConfig(
        **_SIZES, **_SAID["new"], local_attention=10, initializer_range=0.3
    )
    folder = tmp_path_factory.mktemp("modernbert")
    transformers.ModernBertModel(config).save_pretrained(folder)
    return folder


def reworded(saved: Path, folder: Path, **settings: Any) -> Path:
    """The same weights, and nothing said of layers and positions but `settings`."""
    shutil.copytree(saved, folder)
    file = folder / "config.json"
    config = json.loads(file.read_text())
    for name in ("layer_types", "rope_parameters"):
        del config[name]
    file.write_text(json.dumps(config | settings))
    return folder


@pytest.mark.parametrize("tokens", [8, 200])
def test_words_of_both_versions_mean_one_model(tokens, saved, tmp_path):
    theirs = transformers.AutoModel.from_pretrained(saved).eval()
    other = _SAID["old"] | {"local_rope_theta": 10_000.0}
    for name, settings, same in (*((k, v, True) for k, v in _SAID.items()), ("x", other, False)):
        model = import_checkpoint(
            open_checkpoint(str(reworded(saved, tmp_path / name, **settings)))
        )
        save_model(model, tmp_path / f"{name}-again")
        assert "rope_parameters" not in model.config
        again = load_model(tmp_path / f"{name}-again")
        wanted = states(theirs, tokens)
        for each in (model, again):
            close = (states(each.module, tokens) - wanted).abs().max() < 1e-5
            assert bool(close) == same
        graph = emitted(tmp_path / f"{name}-again")
        assert graph is not None
        assert drift(model, graph, make_batch(tokens=tokens)) < 2e-5
        left = {name: value.flip(1) for name, value in make_batch(tokens=tokens).items()}
        assert drift(model, graph, left) < 2e-5


def test_what_is_left_out_is_what_transformers_assumes(tmp_path):
    torch.manual_seed(0)
    sizes = {**_SIZES, "vocab_size": 50_400, "num_hidden_layers": 7}
    del sizes["pad_token_id"]
    theirs = transformers.ModernBertModel(transformers.ModernBertConfig(**sizes)).eval()
    theirs.save_pretrained(tmp_path / "hf")
    bare = {**sizes, "model_type": "modernbert", "architectures": ["ModernBertModel"]}
    (tmp_path / "hf" / "config.json").write_text(json.dumps(bare))
    model = import_checkpoint(open_checkpoint(str(tmp_path / "hf")))
    thetas = {"global_rope_theta": "full_attention", "local_rope_theta": "sliding_attention"}
    for name, value in find_family("modernbert").assumed.items():
        if name in thetas:
            assert theirs.config.rope_parameters[thetas[name]]["rope_theta"] == value
        else:
            assert getattr(theirs.config, name) == value
    assert model.config["layer_types"] == theirs.config.layer_types
    wanted = states(theirs, 200)
    torch.testing.assert_close(states(model.module, 200), wanted, rtol=0, atol=1e-5)


def test_a_window_is_half_as_far_to_either_side(saved, tmp_path):
    """Of 10: five tokens before and five after."""
    model = import_checkpoint(open_checkpoint(str(saved)))
    save_model(model, tmp_path)
    graph = emitted(tmp_path)
    assert graph is not None
    assert graph.constant("/integer/6") == 6
    graph.add_constant("/integer/6", np.array(7, np.int64))
    assert drift(model, graph, make_batch(tokens=40)) > 1e-3


@pytest.mark.parametrize("pooling", ["cls", "mean"])
@pytest.mark.parametrize("norm_bias", [False, True])
def test_a_head_reads_the_first_token_or_the_mean(pooling, norm_bias, tmp_path):
    torch.manual_seed(0)
    config = transformers.ModernBertConfig(
        **_SIZES,
        num_labels=3,
        classifier_pooling=pooling,
        classifier_activation="relu",
        classifier_bias=norm_bias,
        norm_bias=norm_bias,
        attention_bias=norm_bias,
        mlp_bias=norm_bias,
        local_attention=8,
        initializer_range=0.3,
    )
    module = transformers.ModernBertForSequenceClassification(config).eval()
    for name, parameter in module.named_parameters():
        if name.endswith("bias"):
            torch.nn.init.normal_(parameter)
    module.save_pretrained(tmp_path / "hf")
    model = import_checkpoint(open_checkpoint(str(tmp_path / "hf")))
    save_model(model, tmp_path / "stage")
    graph = emitted(tmp_path / "stage")
    assert graph is not None
    for tokens in (8, 200):
        batch = make_batch(tokens=tokens)
        assert drift(model, graph, batch) < 2e-5
        with torch.no_grad():
            wanted = module(**batch).logits
            torch.testing.assert_close(model.module(**batch).logits, wanted, rtol=0, atol=2e-5)


@pytest.mark.parametrize("family", ["modernbert", "modernbert-classifier"])
def test_the_reference_can_be_traced(family, tmp_path):
    model = make_model(family, tmp_path / "hf", unequal=False)
    save_model(model, tmp_path / "stage")
    (tmp_path / "hf" / "tokenizer.json").write_text("{}")
    path = export_plain(tmp_path / "hf", tmp_path / "plain")
    assert drift(model, Graph.load(path), make_batch(tokens=40)) < 1e-4


def test_the_first_layer_stays(tmp_path):
    model = make_model("modernbert", tmp_path, unequal=False, layers=4)
    with pytest.raises(UserError, match="first layer stays"):
        keep_layers(model, [1, 2])
    checkpoint = open_checkpoint(str(tmp_path))
    for keep_last, refused in ((0, False), (1, True)):
        cut = {"layers": 3, "layer_score": "loss", "keep_last": keep_last}
        recipe = validate({"cut": cut}, "r")
        sentence = pytest.raises(UserError, match="1 at the start and 1 at the end are kept")
        with sentence if refused else nullcontext():
            CUT.refuse(recipe.settings["cut"], facts_of(recipe, checkpoint))
    dropped = drop_layers(model, torch.tensor([0.0, 1.0, 2.0, 3.0]), 2, first=1)
    assert dropped == [1, 2]
    assert model.config["layer_types"] == ["full_attention", "full_attention"]


def test_positions_that_are_stretched_are_refused(saved, tmp_path):
    linear = {"rope_type": "linear", "factor": 2.0, "rope_theta": 700.0}
    for number, settings in enumerate(
        (
            {"rope_scaling": {"rope_type": "linear", "factor": 2.0}},
            {"rope_parameters": {"full_attention": linear, "sliding_attention": None}},
        )
    ):
        with pytest.raises(UserError, match="is not known to do"):
            open_checkpoint(str(reworded(saved, tmp_path / f"{number}", **settings)))
