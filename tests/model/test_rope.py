"""Rotary positions as transformers 5 writes them, read as what transformers 4 writes."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from tiny_models import _LLAMA

from edgeprune.base.errors import UserError
from edgeprune.model.checkpoint import open_checkpoint
from edgeprune.model.importing import import_checkpoint
from edgeprune.model.store import load_model, save_model

_STRETCHED = {"factor": 4.0, "original_max_position_embeddings": 64}
_BANDS = {"low_freq_factor": 1.0, "high_freq_factor": 4.0}
KINDS: dict[str, dict[str, Any]] = {
    "default": {},
    "linear": {"factor": 4.0},
    "dynamic": {"factor": 2.0},
    "yarn": _STRETCHED,
    "llama3": {**_STRETCHED, **_BANDS},
    "longrope": {"factor": 1.0, "short_factor": [1.5] * 4, "long_factor": [3.0] * 4},
}


@pytest.fixture(scope="module")
def saved(tmp_path_factory) -> Path:
    """A random Llama that attends sharply, for up to 256 tokens."""
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        **{**_LLAMA, "max_position_embeddings": 256}, initializer_range=0.4
    )
    folder = tmp_path_factory.mktemp("llama")
    transformers.LlamaForCausalLM(config).save_pretrained(folder)
    return folder


def written(saved: Path, folder: Path, **settings: Any) -> Path:
    """The same weights under a configuration with nothing of rotary positions but `settings`."""
    shutil.copytree(saved, folder)
    config = json.loads((saved / "config.json").read_text())
    for name in ("rope_parameters", "rope_theta", "rope_scaling", "torch_dtype", "dtype"):
        config.pop(name, None)
    (folder / "config.json").write_text(json.dumps(config | settings))
    return folder


def version_5(kind: str, theta: float = 500_000.0) -> dict[str, Any]:
    rope = {"rope_type": kind, "rope_theta": theta, **KINDS[kind]}
    return {"rope_parameters": rope, "dtype": "float32", "transformers_version": "5.0.0"}


@torch.no_grad()
def logits(module: Any, tokens: int) -> torch.Tensor:
    return module(torch.arange(tokens)[None] * 7 % 131).logits


@pytest.mark.parametrize("kind", KINDS)
def test_the_same_weights_answer_the_same(kind, saved, tmp_path):
    scaling = None if kind == "default" else {"rope_type": kind, **KINDS[kind]}
    old = {"rope_theta": 500_000.0, "rope_scaling": scaling, "torch_dtype": "float32"}
    theirs = transformers.AutoModelForCausalLM.from_pretrained(
        written(saved, tmp_path / "old", **old)
    ).eval()
    mine = import_checkpoint(
        open_checkpoint(str(written(saved, tmp_path / "new", **version_5(kind))))
    )
    plain = import_checkpoint(open_checkpoint(str(written(saved, tmp_path / "plain"))))
    for tokens in (8, 200):
        expected = logits(theirs, tokens)
        torch.testing.assert_close(logits(mine.module, tokens), expected, rtol=0, atol=0)
        assert (logits(plain.module, tokens) - expected).abs().max() > 0.1


def test_what_is_written_again_is_what_clients_read(saved, tmp_path):
    model = import_checkpoint(
        open_checkpoint(str(written(saved, tmp_path / "new", **version_5("llama3"))))
    )
    save_model(model, tmp_path / "again")
    config = json.loads((tmp_path / "again" / "config.json").read_text())
    assert "rope_parameters" not in config
    assert config["rope_theta"] == 500_000.0
    assert config["rope_scaling"]["rope_type"] == "llama3"
    again = load_model(tmp_path / "again")
    torch.testing.assert_close(logits(again.module, 200), logits(model.module, 200), rtol=0, atol=0)


def test_layers_of_one_kind_are_the_model(saved, tmp_path):
    rope = version_5("yarn")["rope_parameters"]
    layers = {"full_attention": rope, "sliding_attention": dict(rope)}
    folder = written(saved, tmp_path / "same", rope_parameters=layers)
    assert open_checkpoint(str(folder)).config["rope_theta"] == 500_000.0
    layers["sliding_attention"] = {"rope_type": "default", "rope_theta": 10_000.0}
    folder = written(saved, tmp_path / "other", rope_parameters=layers)
    with pytest.raises(UserError, match=r"differ between full_attention and sliding_attention"):
        open_checkpoint(str(folder))


@pytest.mark.parametrize(
    ("rope", "words"),
    [
        ({"rope_type": "proportional", "rope_theta": 1e4}, "rope_scaling: input should be"),
        ({"rope_type": "default", "rope_theta": "1e4"}, "rope_theta: input should be a valid num"),
        ({"rope_type": "default", "partial_rotary_factor": 0.5}, "partial_rotary_factor is 0.5"),
        ({**KINDS["longrope"], **_STRETCHED, "rope_type": "longrope"}, "more than 64 tokens"),
        ({**_STRETCHED, "rope_type": "dynamic"}, "more than 64 tokens"),
    ],
)
def test_positions_that_cannot_be_built(rope, words, saved, tmp_path):
    with pytest.raises(UserError) as error:
        open_checkpoint(str(written(saved, tmp_path / "new", rope_parameters=rope)))
    assert words in str(error.value)
    assert str(error.value).count("config.json: ") == 1


@pytest.mark.parametrize(
    ("kind", "base", "share"),
    [
        ("gpt_neox", "rotary_emb_base", "rotary_pct"),
        ("phi", "rope_theta", "partial_rotary_factor"),
    ],
)
def test_the_share_of_a_head_that_is_turned_keeps_its_name(kind, base, share, tmp_path):
    """Each family has a name of its own for it, and for the base."""
    sizes = {"vocab_size": 50, "hidden_size": 64, "num_attention_heads": 4, "num_hidden_layers": 1}
    kept = {base: 20_000.0, share: 0.75}
    torch.manual_seed(0)
    theirs = transformers.AutoModelForCausalLM.from_config(
        transformers.CONFIG_MAPPING[kind](**sizes, **kept, intermediate_size=32)
    ).eval()
    theirs.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    for name in (base, share, "rope_theta"):
        config.pop(name, None)
    rope = {"rope_type": "default", "rope_theta": 20_000.0, "partial_rotary_factor": 0.75}
    (tmp_path / "config.json").write_text(json.dumps(config | {"rope_parameters": rope}))
    mine = import_checkpoint(open_checkpoint(str(tmp_path)))
    assert {name: mine.config[name] for name in kept} == kept
    # Three products in place of a fused one may sum in another order.
    torch.testing.assert_close(logits50(mine.module), logits50(theirs), rtol=0, atol=1e-6)


@torch.no_grad()
def logits50(module: Any) -> torch.Tensor:
    return module(torch.arange(50)[None]).logits
