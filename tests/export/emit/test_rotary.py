"""Tables of rotary positions beside transformers' own angles."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_models
import torch
import transformers
from padded_prompts import decoded, largest_difference
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

from edgeprune.export.emit.emitted import emitted
from edgeprune.export.emit.rotary import rotary_tables
from edgeprune.model.checkpoint import open_checkpoint
from edgeprune.model.families import find_family
from edgeprune.model.importing import import_checkpoint
from edgeprune.model.rope import without_rope_parameters
from edgeprune.model.store import save_model
from edgeprune.runtime.session import open_session

LONGEST, HEAD = 256, 16
LLAMA3 = {"low_freq_factor": 1.0, "high_freq_factor": 4.0}
YARN = {"factor": 4.0, "original_max_position_embeddings": 64}
SHORT = [1 + place / 10 for place in range(HEAD // 2)]
KINDS = {
    "default": None,
    "linear": {"rope_type": "linear", "factor": 4.0},
    "by its old name": {"type": "linear", "factor": 2.0},
    "dynamic": {"rope_type": "dynamic", "factor": 2.0},
    "llama3": {
        "rope_type": "llama3",
        "factor": 8.0,
        "original_max_position_embeddings": 64,
        **LLAMA3,
    },
    "yarn": {"rope_type": "yarn", **YARN},
    "yarn, stated": {"rope_type": "yarn", "attention_factor": 1.3, "beta_fast": 16, **YARN},
    "yarn, two scales": {
        "rope_type": "yarn",
        "mscale": 1.0,
        "mscale_all_dim": 0.5,
        "truncate": False,
        **YARN,
    },
    "longrope": {
        "rope_type": "longrope",
        "factor": 4.0,
        "short_factor": SHORT,
        "long_factor": [2.0] * (HEAD // 2),
    },
}
pytestmark = pytest.mark.filterwarnings("ignore")


def config_of(kind: str, theta: float = 10_000.0) -> transformers.LlamaConfig:
    settings = {**tiny_models._FUSED, "max_position_embeddings": LONGEST}
    return transformers.LlamaConfig(rope_theta=theta, rope_scaling=KINDS[kind], **settings)


def stated(config: transformers.LlamaConfig) -> dict[str, Any]:
    """As a checkpoint is read."""
    return without_rope_parameters(config.to_dict(), find_family("llama"), Path("config.json"))


@pytest.fixture(scope="module")
def anatomy(tmp_path_factory):
    folder = tmp_path_factory.mktemp("llama")
    transformers.LlamaForCausalLM(config_of("default")).save_pretrained(folder)
    return open_checkpoint(str(folder)).anatomy


@pytest.mark.parametrize("theta", [10_000.0, 500_000.0])
@pytest.mark.parametrize("kind", KINDS)
def test_tables_are_the_angles_of_transformers(kind, theta, anatomy):
    config = config_of(kind, theta)
    expected = LlamaRotaryEmbedding(config)(torch.zeros(1), torch.arange(LONGEST)[None])
    tables = rotary_tables(stated(config), anatomy)
    for table, whole in zip(tables, expected, strict=True):
        assert table.shape == (LONGEST, HEAD // 2)
        # Both halves of a head have the same angles. A last bit of a frequency is 1e-7 of an angle.
        halves = whole[0].numpy().reshape(LONGEST, 2, -1).swapaxes(0, 1)
        bound = 2e-7 * (1 + np.arange(LONGEST))[:, None]
        assert (np.abs(halves - table) <= bound).all()


def test_a_kind_that_is_not_known_has_no_tables(anatomy):
    config = stated(config_of("default")) | {"rope_scaling": {"rope_type": "proportional"}}
    assert rotary_tables(config, anatomy) is None


@pytest.mark.parametrize("tokens", [8, 200])
@pytest.mark.parametrize("kind", KINDS)
def test_a_graph_turns_as_torch_does(kind, tokens, tmp_path):
    torch.manual_seed(0)
    transformers.LlamaForCausalLM(config_of(kind)).save_pretrained(tmp_path / "hf")
    model = import_checkpoint(open_checkpoint(str(tmp_path / "hf")))
    save_model(model, tmp_path / "stage")
    graph = emitted(tmp_path / "stage")
    assert graph is not None
    [path] = graph.save(tmp_path / "model.onnx")
    batch = decoded("right", 1, prompt=tokens)
    assert largest_difference(model, open_session(path, threads=1), batch) < 2e-5
