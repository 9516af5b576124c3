"""config.json at its one door: types and ranges, and whether it fits the weights beside it."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from click.testing import CliRunner
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx_models import encoder_folder
from safetensors.torch import save_file
from tiny_builds import model_folder, recipe_file, text_file

from edgeprune.base.errors import UserError
from edgeprune.cli import main
from edgeprune.model.checkpoint import WEIGHTS, open_checkpoint
from edgeprune.model.config import ModelConfig
from edgeprune.model.fits import check_fits
from edgeprune.model.importing import import_checkpoint
from edgeprune.model.safetensors_header import read_header
from edgeprune.runtime.bundle import Bundle

FAMILIES = (
    *("bert", "roberta", "classifier", "llama", "gpt2", "qwen2_moe"),
    *("phi3-partial", "smollm3", "granite", "lfm2"),
)


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("made")
    for family in FAMILIES:
        model_folder(folder / family, family)
    text_file(folder / "text.txt")
    text_file(folder / "labelled.jsonl")
    recipe_file(
        folder / "tiny.yaml", "text: {max_tokens: 16, held_out: 0.2}\nmeasure: {tokens: 12}\n"
    )
    return folder


def changed(made: Path, family: str, target: Path, **settings: Any) -> Path:
    """A model's folder with other settings; None takes one out."""
    model = Path(shutil.copytree(made / family, target, dirs_exist_ok=True))
    config = json.loads((made / family / "config.json").read_text()) | settings
    kept = {key: value for key, value in config.items() if value != "absent"}
    (model / "config.json").write_text(json.dumps(kept))
    return model


def dry_run(made: Path, model: Path, family: str) -> tuple[int, str]:
    text = "labelled.jsonl" if family == "classifier" else "text.txt"
    arguments = ["build", made / "tiny.yaml", "--model", model, "--data", made / text, "--dry-run"]
    result = CliRunner().invoke(main, list(map(str, arguments)))
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert "Traceback" not in result.stderr
    return result.exit_code, result.stderr


@pytest.mark.parametrize(
    ("family", "settings", "words"),
    [
        ("bert", {"architectures": "BertModel"}, "architectures: input should be a valid list"),
        ("bert", {"architectures": ["BertForCausalLM"]}, "BertForCausalLM"),
        ("bert", {"num_attention_heads": 0}, "num_attention_heads: input should be greater than"),
        ("bert", {"num_attention_heads": "4"}, "num_attention_heads: input should be a valid int"),
        ("bert", {"num_attention_heads": 5}, "a width of 32 is not divisible by 5 attention heads"),
        ("bert", {"num_hidden_layers": 0}, "num_hidden_layers: input should be greater than"),
        ("bert", {"num_hidden_layers": 1}, "num_hidden_layers 1, and its weights hold 2"),
        ("bert", {"num_hidden_layers": 3}, "num_hidden_layers 3, and its weights hold 2"),
        ("bert", {"num_hidden_layers": "absent"}, "config.json does not say num_hidden_layers"),
        ("bert", {"hidden_size": -32}, "hidden_size: input should be greater than"),
        ("bert", {"hidden_size": 64}, "hidden_size 64, and its weights hold 32"),
        ("bert", {"hidden_size": "absent"}, "config.json does not say hidden_size or dim"),
        ("bert", {"intermediate_size": 48}, "intermediate_size 48, and its weights hold 40"),
        ("bert", {"vocab_size": 500}, "vocab_size 500, and its weights hold 131"),
        ("bert", {"max_position_embeddings": 512}, "max_position_embeddings 512, and its weights"),
        ("bert", {"layer_norm_eps": "1e-12"}, "layer_norm_eps: input should be a valid number"),
        ("bert", {"pad_token_id": 131}, "pad_token_id 131, and the model has rows for 131 tokens"),
        ("roberta", {"pad_token_id": None}, "counts positions by the padding token"),
        ("gpt2", {"n_positions": 97}, "n_positions 97, and its weights hold 96"),
        ("llama", {"num_key_value_heads": 3}, "4 attention heads cannot share 3 key-value heads"),
        ("llama", {"num_key_value_heads": 4}, "num_key_value_heads 4, and its weights hold 2"),
        ("llama", {"head_dim": 16}, "num_attention_heads 4, and its weights hold 2"),
        ("llama", {"layer_types": ["full_attention"]}, "says layer_types of 1 layers, and its"),
        ("llama", {"rope_theta": 0}, "rope_theta: input should be greater than 0"),
        ("llama", {"rope_scaling": {"rope_type": "proportional"}}, "rope_scaling: input should be"),
        ("llama", {"tie_word_embeddings": False}, "it has no lm_head.weight"),
        ("llama", {"tie_word_embeddings": "absent"}, "it has no lm_head.weight"),
        (
            "llama",
            {"num_key_value_heads": [2, 1]},
            "num_key_value_heads: input should be a valid in",
        ),
        ("llama", {"per_layer_config": {"0": {"num_key_value_heads": 1}}}, "layer by layer, which"),
        ("phi3-partial", {"num_key_value_heads": 4}, "num_key_value_heads 4, and its weights hold"),
        (
            "phi3-partial",
            {"intermediate_size": 80},
            "intermediate_size 80, and its weights hold 40",
        ),
        ("smollm3", {"no_rope_layers": [1]}, "says no_rope_layers of 1 layers, and its weights"),
        ("granite", {"residual_multiplier": "1"}, "residual_multiplier: input should be a valid"),
        ("lfm2", {"intermediate_size": 96}, "intermediate_size 96, and its weights hold 40"),
        ("lfm2", {"conv_L_cache": 4}, "conv_L_cache 4, and its weights hold 3"),
        ("qwen2_moe", {"num_experts": 8}, "num_experts 8, and its weights hold 4"),
        ("classifier", {"id2label": {"0": "a", "2": "b", "5": "c"}}, "the labels 0 to 2"),
        ("classifier", {"id2label": {str(n): "x" for n in range(4)}}, "names 4 labels"),
        ("classifier", {"problem_type": "ranking"}, "ranking"),
    ],
)
def test_a_setting_that_cannot_be_right(family, settings, words, made, tmp_path):
    model = changed(made, family, tmp_path / "model", **settings)
    code, said = dry_run(made, model, family)
    assert code == 2
    assert words in " ".join(said.split())


def test_longrope_takes_the_texts_that_its_short_factors_are_for(made, tmp_path):
    family = "phi3-partial"
    rope = json.loads((made / family / "config.json").read_text())["rope_parameters"]
    code, said = dry_run(made, made / family, family)
    assert code == 0
    assert "has more than 48 tokens (rope_scaling of longrope)" in " ".join(said.split())
    assert "takes no longer texts" in said

    def trained(length: int) -> dict[str, Any]:
        key = "original_max_position_embeddings"
        return {key: length, "rope_parameters": rope | {key: length}}

    model = changed(made, family, tmp_path / "short", **trained(8))
    code, said = dry_run(made, model, family)
    assert code == 2
    assert "text.max_tokens is 16, and" in said
    assert "takes at most 8 tokens" in said
    # Nothing is said where nothing is lost.
    model = changed(made, family, tmp_path / "whole", **trained(96))
    assert "longrope" not in dry_run(made, model, family)[1]


@pytest.mark.parametrize("family", FAMILIES)
def test_a_model_as_it_was_saved_passes(family, made, tmp_path):
    check_fits(open_checkpoint(str(made / family)))


_JUNK = st.one_of(
    st.none(),
    st.booleans(),
    st.sampled_from([0, -1, 1, 2, 3, 7, 32, 131, 2**31, 10**30, 0.5, 1e300, "", "4", "bert"]),
    st.sampled_from([[], [None], ["x"], {}, {"0": "x"}, {"rope_type": "yarn"}, {"x": {}}]),
    st.floats(),
    st.just("absent"),
)


@settings(
    max_examples=150,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(data=st.data())
def test_any_configuration_is_taken_or_told_in_a_sentence(data, made, tmp_path):
    family = data.draw(st.sampled_from(FAMILIES))
    known = json.loads((made / family / "config.json").read_text())
    keys = st.sampled_from(sorted({*known, *ModelConfig.model_fields}))
    model = changed(made, family, tmp_path, **data.draw(st.dictionaries(keys, _JUNK, max_size=3)))
    code, said = dry_run(made, model, family)
    assert code in (0, 2)
    assert code == 0 or said.strip().splitlines()[-1].startswith("edgeprune: ")


@settings(
    max_examples=100,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(data=st.data())
def test_weights_of_any_shape_are_taken_or_told_in_a_sentence(data, made, tmp_path):
    family = data.draw(st.sampled_from(FAMILIES))
    model = changed(made, family, tmp_path)
    shapes = {name: entry["shape"] for name, entry in read_header(model / WEIGHTS).items()}
    for name in data.draw(st.lists(st.sampled_from(sorted(shapes)), max_size=3)):
        shapes[name] = data.draw(st.sampled_from([None, [], [0], [7], [0, 32], [32, 32], [2] * 3]))
    kept = {name: torch.zeros(shape) for name, shape in shapes.items() if shape is not None}
    save_file(kept, model / WEIGHTS)
    code, said = dry_run(made, model, family)
    assert code in (0, 2)
    assert code == 0 or said.strip().splitlines()[-1].startswith("edgeprune: ")


def test_a_bundle_is_read_through_the_same_door(tmp_path):
    folder = encoder_folder(tmp_path)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"architectures": "BertModel"}))
    with pytest.raises(
        UserError, match=r"config\.json: architectures: input should be a valid list"
    ):
        _ = Bundle.open(folder).config


def test_the_first_llamas_id_for_no_padding_is_none(made, tmp_path):
    model = changed(made, "llama", tmp_path / "model", pad_token_id=-1)
    assert open_checkpoint(str(model)).config["pad_token_id"] is None


def test_positions_start_above_the_padding_id(tmp_path):
    """As many tokens as transformers takes, and not one more."""
    torch.manual_seed(0)
    config = transformers.RobertaConfig(
        vocab_size=50,
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=8,
        max_position_embeddings=20,
        pad_token_id=4,
    )
    transformers.RobertaModel(config).save_pretrained(tmp_path)
    checkpoint = open_checkpoint(str(tmp_path))
    longest = checkpoint.anatomy.max_positions
    module = import_checkpoint(checkpoint).module
    module(torch.full((1, longest), 7))
    with pytest.raises((IndexError, RuntimeError), match=r"out of (range|bounds)"):
        module(torch.full((1, longest + 1), 7))


def test_a_setting_that_only_running_reads(made, tmp_path):
    model = changed(made, "bert", tmp_path / "model", hidden_act="there_is_no_such")
    with pytest.raises(UserError, match=r"could not be read: .*config\.json"):
        import_checkpoint(open_checkpoint(str(model)))
