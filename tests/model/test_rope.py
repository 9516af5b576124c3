"""Rotary positions as transformers 4 and 5 write them: the same weights answer the same, with the
angles that the papers give."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from padded_prompts import decoded, largest_difference
from tiny_models import _LLAMA

from edgeprune.base.errors import UserError
from edgeprune.export.emit.emitted import emitted
from edgeprune.export.emit.rotary import rotary_tables
from edgeprune.model.checkpoint import open_checkpoint
from edgeprune.model.families import find_family
from edgeprune.model.importing import import_checkpoint
from edgeprune.model.store import load_model, save_model
from edgeprune.runtime.session import open_session

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


def version_4(kind: str, theta: float = 500_000.0, key: str = "rope_type") -> dict[str, Any]:
    scaling = None if kind == "default" else {key: kind, **KINDS[kind]}
    return {"rope_theta": theta, "rope_scaling": scaling, "torch_dtype": "float32"}


def frequencies(kind: str, theta: float, width: int) -> tuple[np.ndarray, float]:
    """Angles [width / 2] from one position to the next, and what cosines and sines are multiplied
    by, in closed form."""
    plain = theta ** (-np.arange(0, width, 2) / width)
    turns = KINDS[kind].get("original_max_position_embeddings", 0) * plain / (2 * np.pi)
    factor = KINDS[kind].get("factor", 1.0)
    if kind == "linear":
        return plain / factor, 1.0
    if kind == "llama3":  # whole above 4 turns of the length trained on, divided below 1
        low, high = _BANDS["low_freq_factor"], _BANDS["high_freq_factor"]
        whole = np.clip((turns - low) / (high - low), 0, 1)
        return plain * (whole + (1 - whole) / factor), 1.0
    if kind == "yarn":  # a ramp over dimensions, from that of 32 turns to that of 1
        bounds = [
            width * np.log(KINDS[kind]["original_max_position_embeddings"] / (n * 2 * np.pi))
            / (2 * np.log(theta))
            for n in (32, 1)
        ]  # fmt: skip
        first, last = max(np.floor(bounds[0]), 0), min(np.ceil(bounds[1]), width - 1)
        divided = np.clip((np.arange(width // 2) - first) / (last - first), 0, 1)
        return plain * (1 - divided + divided / factor), 0.1 * np.log(factor) + 1
    return plain, 1.0


@pytest.mark.parametrize("words", [version_4, version_5])
@pytest.mark.parametrize("kind", ["default", "linear", "llama3", "yarn"])
def test_angles_are_those_of_the_closed_form(kind, words, saved, tmp_path):
    model = import_checkpoint(open_checkpoint(str(written(saved, tmp_path / "new", **words(kind)))))
    width = model.anatomy.blocks[0].attention.head_dim
    steps, scale = frequencies(kind, 500_000.0, width)
    angles = np.arange(200)[:, None] * np.concatenate([steps, steps])
    rotary: Any = model.module.get_submodule("model.rotary_emb")
    got = rotary(torch.zeros(1), torch.arange(200)[None])
    for mine, expected in zip(got, (np.cos(angles), np.sin(angles)), strict=True):
        np.testing.assert_allclose(mine[0].numpy(), scale * expected, rtol=0, atol=2e-5)
    # The stage after this reads what was saved.
    save_model(model, tmp_path / "again")
    rotary = load_model(tmp_path / "again").module.get_submodule("model.rotary_emb")
    for mine, again in zip(got, rotary(torch.zeros(1), torch.arange(200)[None]), strict=True):
        torch.testing.assert_close(again, mine, rtol=0, atol=0)


@pytest.mark.parametrize(
    "family",
    [
        *("mistral", "qwen2", "qwen3", "gemma", "gemma2", "olmo2"),
        *("phi3", "smollm3", "granite", "lfm2"),
        *("mixtral", "qwen2_moe", "qwen3_moe"),
    ],
)
def test_every_family_of_llamas_kind_reads_both_versions_words(family, tmp_path):
    """And an angle that is not stated is not made up: theirs has a base of its own."""
    torch.manual_seed(0)
    sizes = {**_LLAMA, "head_dim": 8, "max_position_embeddings": 256}
    config = transformers.CONFIG_MAPPING[family](
        **sizes,
        initializer_range=0.4,
        sliding_window=64 if family == "gemma2" else None,
        pad_token_id=0,
        num_local_experts=2,
        num_experts=2,
        num_experts_per_tok=1,
        moe_intermediate_size=16,
        shared_expert_intermediate_size=16,
    )
    saved = tmp_path / "saved"
    transformers.AutoModelForCausalLM.from_config(config).save_pretrained(saved)
    old = written(saved, tmp_path / "old", **version_4("default"))
    theirs = transformers.AutoModelForCausalLM.from_pretrained(old).eval()
    models = [
        import_checkpoint(open_checkpoint(str(folder)))
        for folder in (old, written(saved, tmp_path / "new", **version_5("default")))
    ]
    plain = import_checkpoint(
        open_checkpoint(str(written(saved, tmp_path / "plain", rope_theta=10_000.0)))
    )
    for tokens in (8, 200):
        expected = logits(theirs, tokens)
        for mine in models:
            # Experts apart may sum in another order than all in one product.
            torch.testing.assert_close(logits(mine.module, tokens), expected, rtol=0, atol=1e-4)
        assert (logits(plain.module, tokens) - expected).abs().max() > 0.01


_WINDOW = {"sliding_window": 24, "query_pre_attn_scalar": 11}
_BY_LAYER = {
    "sliding_attention": {"rope_type": "default", "rope_theta": 300.0},
    "full_attention": {"rope_type": "linear", "rope_theta": 500_000.0, "factor": 4.0},
}
_SAID = {
    "new": {"rope_parameters": _BY_LAYER, "layer_types": ["sliding_attention", "full_attention"]},
    "old": {
        **version_4("linear", key="rope_type"),
        "rope_local_base_freq": 300.0,
        "sliding_window_pattern": 2,
    },
}


@pytest.fixture(scope="module")
def windowed(tmp_path_factory) -> Path:
    """A random model whose layers with a window turn their heads by other angles."""
    torch.manual_seed(0)
    sizes = {**_LLAMA, **_WINDOW, "head_dim": 8, "max_position_embeddings": 256}
    config = transformers.Gemma3TextConfig(**sizes, **_SAID["new"], initializer_range=0.4)
    folder = tmp_path_factory.mktemp("windowed")
    transformers.Gemma3ForCausalLM(config).save_pretrained(folder)
    return folder


def reworded(saved: Path, folder: Path, **settings: Any) -> Path:
    """The same weights, and nothing said of layers and positions but `settings`."""
    written(saved, folder)
    file = folder / "config.json"
    config = json.loads(file.read_text())
    for name in ("layer_types", "_sliding_window_pattern", "rope_local_base_freq"):
        config.pop(name, None)
    file.write_text(json.dumps(config | settings))
    return folder


def test_positions_by_type_of_layer_in_both_versions_words(windowed, tmp_path):
    """In torch and in the graph, which is written straight from either and from what is saved."""
    theirs = transformers.AutoModelForCausalLM.from_pretrained(windowed).eval()
    other = _SAID["old"] | {"rope_local_base_freq": 10_000.0}
    for name, settings, same in (*((k, v, True) for k, v in _SAID.items()), ("x", other, False)):
        folder = reworded(windowed, tmp_path / name, **settings)
        model = import_checkpoint(open_checkpoint(str(folder)))
        save_model(model, tmp_path / f"{name}-again")
        assert "rope_parameters" not in model.config
        again = load_model(tmp_path / f"{name}-again")
        graphs = [emitted(place) for place in (folder, tmp_path / f"{name}-again")]
        for tokens in (8, 200):
            expected = logits(theirs, tokens)
            batch = decoded("right", 1, tokens)
            found = [logits(each.module, tokens) for each in (model, again)]
            for each in found:
                assert bool((each - expected).abs().max() == 0) == same
            for graph in graphs:
                assert graph is not None
                session = open_session(graph.save_for_session(), threads=1)
                assert largest_difference(model, session, batch) < 2e-5


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"rope_parameters": {"rope_type": "default"}}, "and here is rope_type: state both"),
        (
            {"rope_parameters": {"sliding_attention": {"rope_type": "linear", "factor": 2.0}}},
            "in such layers this type of model is only known to have a rope_theta",
        ),
        (
            {"rope_parameters": _BY_LAYER, "rope_local_base_freq": 10.0},
            "sliding_attention.rope_theta says 300.0, and rope_local_base_freq says 10.0",
        ),
        ({"attn_logit_softcapping": 50.0}, "attn_logit_softcapping is 50.0, which transformers"),
    ],
)
def test_what_layers_with_a_window_cannot_have(settings, words, windowed, tmp_path):
    with pytest.raises(UserError) as error:
        open_checkpoint(str(reworded(windowed, tmp_path / "new", **settings)))
    assert words in str(error.value)


@pytest.mark.parametrize("family", ["gemma2", "gemma3_text"])
def test_what_is_left_out_is_what_transformers_assumes(family, tmp_path):
    """A configuration of nothing but sizes, and seven layers: the pattern of windows shows."""
    torch.manual_seed(0)
    sizes = {"vocab_size": 131, "hidden_size": 16, "intermediate_size": 8, "num_hidden_layers": 7}
    sizes |= {"num_attention_heads": 2, "num_key_value_heads": 1, "max_position_embeddings": 32}
    kind = transformers.CONFIG_MAPPING[family]
    theirs = transformers.AutoModelForCausalLM.from_config(kind(**sizes)).eval()
    theirs.save_pretrained(tmp_path)
    bare = {**sizes, "model_type": family, "architectures": [type(theirs).__name__]}
    bare |= {"rms_norm_eps": 1e-6}
    (tmp_path / "config.json").write_text(json.dumps(bare))
    checkpoint = open_checkpoint(str(tmp_path))
    for name, value in find_family(family).assumed.items():
        if name.startswith("rope_"):
            layer = "full_attention" if name == "rope_theta" else "sliding_attention"
            assert theirs.config.rope_parameters[layer]["rope_theta"] == value
        else:
            assert getattr(theirs.config, name) == value
    assert checkpoint.config["layer_types"] == theirs.config.layer_types
    graph = emitted(tmp_path)
    assert graph is not None
    model = import_checkpoint(checkpoint)
    session = open_session(graph.save_for_session(), threads=1)
    assert largest_difference(model, session, decoded("left", 2)) < 2e-5


@pytest.mark.parametrize("kind", KINDS)
def test_the_same_weights_answer_the_same(kind, saved, tmp_path):
    theirs = transformers.AutoModelForCausalLM.from_pretrained(
        written(saved, tmp_path / "theirs", **version_4(kind))
    ).eval()
    words = {
        "new": version_5(kind),
        "old": version_4(kind),
        "older": version_4(kind, key="type"),
        "both": version_4(kind) | version_5(kind),
    }
    plain = import_checkpoint(
        open_checkpoint(str(written(saved, tmp_path / "plain", rope_theta=10_000.0)))
    )
    for name, settings in words.items():
        folder = written(saved, tmp_path / name, **settings)
        mine = import_checkpoint(open_checkpoint(str(folder)))
        for tokens in (8, 200):
            expected = logits(theirs, tokens)
            torch.testing.assert_close(logits(mine.module, tokens), expected, rtol=0, atol=0)
            assert (logits(plain.module, tokens) - expected).abs().max() > 0.1


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"rope_theta": 10_000.0}, "rope_parameters.rope_theta says 500000.0, and rope_theta says"),
        ({"rope_scaling": {"type": "linear", "factor": 4.0}}, "and rope_scaling says {'type': 'li"),
        ({"rope_scaling": {"rope_type": "llama3", "factor": 8.0}}, "and rope_scaling says {'rope_"),
    ],
)
def test_words_of_both_versions_that_contradict(settings, words, saved, tmp_path):
    folder = written(saved, tmp_path / "new", **version_5("llama3"), **settings)
    with pytest.raises(UserError) as error:
        open_checkpoint(str(folder))
    assert words in str(error.value)


def test_what_is_written_again_is_what_clients_read(saved, tmp_path):
    model = import_checkpoint(
        open_checkpoint(str(written(saved, tmp_path / "new", **version_5("llama3"))))
    )
    save_model(model, tmp_path / "again")
    config = json.loads((tmp_path / "again" / "config.json").read_text())
    assert "rope_parameters" not in config
    assert config["rope_theta"] == 500_000.0
    assert config["rope_scaling"]["rope_type"] == "llama3"
    # The newer version reads the same from these words.
    theirs = transformers.AutoConfig.from_pretrained(tmp_path / "again")
    assert theirs.rope_parameters == version_5("llama3")["rope_parameters"]
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
        ({**_STRETCHED, "rope_type": "dynamic"}, "more than 64 tokens"),
        ({"full_attention": {"rope_type": "default"}, "sliding_attention": None}, "differ between"),
    ],
)
def test_positions_that_cannot_be_built(rope, words, saved, tmp_path):
    with pytest.raises(UserError) as error:
        open_checkpoint(str(written(saved, tmp_path / "new", rope_parameters=rope)))
    assert words in str(error.value)
    assert str(error.value).count("config.json: ") == 1


_SHORT = {"short_factor": [1.5, 1.2, 1.0], "long_factor": [3.0] * 3}
_TRAINED = {"original_max_position_embeddings": 224}


@pytest.fixture(scope="module")
def phi(tmp_path_factory) -> Path:
    """A random Phi-3 for 1,024 tokens, trained on 224, with three quarters of a head turned."""
    torch.manual_seed(0)
    config = transformers.Phi3Config(
        **{**_LLAMA, "max_position_embeddings": 1024},
        rope_parameters={"rope_type": "longrope", "partial_rotary_factor": 0.75, **_SHORT},
        initializer_range=0.4,
        pad_token_id=0,
        **_TRAINED,
    )
    folder = tmp_path_factory.mktemp("phi3")
    transformers.Phi3ForCausalLM(config).save_pretrained(folder)
    return folder


def test_a_longrope_of_either_version_answers_the_same_up_to_its_trained_length(phi, tmp_path):
    old = {"partial_rotary_factor": 0.75, "rope_theta": 10_000.0, **_TRAINED}
    new = {"partial_rotary_factor": 0.75, "rope_theta": 10_000.0, "rope_type": "longrope"}
    words: dict[str, dict[str, Any]] = {
        "old": {**old, "rope_scaling": {"type": "longrope", **_SHORT}},
        "first": {**old, "rope_scaling": {"type": "su", **_SHORT}},
        "new": {**_TRAINED, "rope_parameters": {**new, **_SHORT}},
        "inside": {"rope_parameters": {**new, **_SHORT, **_TRAINED}},
    }
    theirs = transformers.AutoModelForCausalLM.from_pretrained(phi).eval()
    for name, settings in words.items():
        folder = written(phi, tmp_path / name, **{**dict.fromkeys(_TRAINED), **settings})
        checkpoint = open_checkpoint(str(folder))
        assert checkpoint.anatomy.max_positions == 224
        mine = import_checkpoint(checkpoint)
        # As the older version takes it: three settings, and none by another name.
        assert mine.config["rope_scaling"] == {"type": "longrope", **_SHORT}
        assert (mine.config["max_position_embeddings"], mine.anatomy.max_positions) == (1024, 224)
        for tokens in (8, 200, 224):
            # Products apart may sum in another order than fused ones.
            expected = logits(theirs, tokens)
            torch.testing.assert_close(logits(mine.module, tokens), expected, rtol=0, atol=1e-4)
        save_model(mine, tmp_path / "again")
        again = load_model(tmp_path / "again")
        same, got = logits(mine.module, 200), logits(again.module, 200)
        torch.testing.assert_close(got, same, rtol=0, atol=0)


def test_an_emitted_longrope_ends_with_its_trained_length(phi, tmp_path):
    model = import_checkpoint(open_checkpoint(str(phi)))
    save_model(model, tmp_path)
    cosines, sines = rotary_tables(model.config, model.anatomy) or ()
    assert cosines.shape == sines.shape == (224, 3)
    steps = 10_000.0 ** (-np.arange(0, 6, 2) / 6) / np.array(_SHORT["short_factor"])
    factor = np.sqrt(1 + np.log(1024 / 224) / np.log(224))
    angles = np.arange(224)[:, None] * steps
    np.testing.assert_allclose(cosines, factor * np.cos(angles), rtol=0, atol=2e-5)
    np.testing.assert_allclose(sines, factor * np.sin(angles), rtol=0, atol=2e-5)


def test_a_longrope_that_does_not_say_what_it_was_trained_on(phi, tmp_path):
    scaling = {"rope_scaling": {"type": "longrope", **_SHORT}}
    folder = written(phi, tmp_path / "new", **dict.fromkeys(_TRAINED), **scaling)
    with pytest.raises(UserError, match="does not say original_max_position_embeddings: add"):
        open_checkpoint(str(folder))


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
    assert "rope_parameters" in config
    for name in (base, share, "rope_theta", "rope_parameters"):
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
