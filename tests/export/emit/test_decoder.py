"""An emitted decoder answers as torch does: every family, padded on either side, step by step."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import tiny_models
import torch
import transformers
from padded_prompts import by_graph, decoded, largest_difference
from safetensors.torch import load_file, save_file
from tiny_models import (
    DECODERS,
    EMITTED_DECODERS,
    FUSED_DECODERS,
    FUSED_POST_NORMED,
    MIXTURES,
    ODD_DECODERS,
    POST_NORMED,
    make_model,
)
from transformers.initialization import no_init_weights

from edgeprune.compress.cut.surgery import keep_layers
from edgeprune.compress.cut.vocabulary import trim_model
from edgeprune.export.emit.decoder import emit_decoder
from edgeprune.export.emit.emitted import emitted
from edgeprune.export.emit.weights import Weights
from edgeprune.export.graph import Graph
from edgeprune.model.checkpoint import open_checkpoint
from edgeprune.model.importing import import_checkpoint
from edgeprune.model.model import Model
from edgeprune.model.store import save_model
from edgeprune.model.tasks import TASKS
from edgeprune.runtime.names import FUSED_ATTENTION, SHARED_CACHE

torch.set_num_threads(1)
FUSED = (*FUSED_DECODERS, *FUSED_POST_NORMED, *EMITTED_DECODERS[:3])
ALL = (
    *(*DECODERS, *POST_NORMED, *FUSED_DECODERS, *FUSED_POST_NORMED),
    *(*EMITTED_DECODERS, *ODD_DECODERS, *MIXTURES),
)
BOUND = 2e-5


def emit(model: Model, folder: Path) -> Graph:
    save_model(model, folder)
    graph = emitted(folder)
    assert graph is not None
    return graph


def session_of(graph: Graph) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    return ort.InferenceSession(
        graph.model().SerializeToString(), options, providers=["CPUExecutionProvider"]
    )


@pytest.fixture(scope="module")
def build(tmp_path_factory):
    """Each family's model, unequal but for mixtures, and its emitted graph, once."""
    done: dict[str, tuple[Model, Graph, ort.InferenceSession]] = {}

    def make(family):
        if family not in done:
            folder = tmp_path_factory.mktemp(family)
            model = make_model(family, folder / "hf", unequal=family not in MIXTURES)
            graph = emit(model, folder / "stage")
            done[family] = model, graph, session_of(graph)
        return done[family]

    return make


@pytest.mark.parametrize("rows", [1, 3])
@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("family", ALL)
def test_prompts_and_steps_equal_torch(family, side, rows, build):
    model, graph, session = build(family)
    # The fused operator takes several tokens after a cache for a single row only.
    steps = (1, 1, 1) if SHARED_CACHE in graph.metadata and rows > 1 else (1, 2, 1)
    assert largest_difference(model, session, decoded(side, rows, steps=steps)) < BOUND


@pytest.mark.parametrize("family", ALL)
def test_the_graph_is_valid_and_named_as_the_hub_names_it(family, build):
    model, graph, session = build(family)
    onnx.checker.check_model(graph.model())
    given = {value.name: list(value.shape) for value in session.get_inputs()}
    made = {value.name: list(value.shape) for value in session.get_outputs()}
    attention = model.anatomy.blocks[1].attention
    total = "past_sequence_length + sequence_length"
    cache = ["batch_size", attention.num_key_value_heads, "past_sequence_length"]
    assert given["input_ids"] == ["batch_size", "sequence_length"]
    assert given["attention_mask"] == ["batch_size", total]
    assert ("position_ids" in given) == (family != "gemma")
    assert given["past_key_values.1.key"] == [*cache, attention.head_dim]
    assert made["present.1.value"] == [*cache[:2], total, attention.head_dim]
    assert made["logits"] == ["batch_size", "sequence_length", tiny_models.VOCABULARY]
    assert [value.name for value in session.get_overridable_initializers()] == [
        "num_logits_to_keep"
    ]


@pytest.mark.parametrize("family", [*FUSED, "llama"])
def test_heads_that_the_operator_takes_are_one_node(family, build):
    model, graph, _ = build(family)
    nodes = [node for node in graph.nodes if node.op_type == FUSED_ATTENTION]
    counts = [{a.name: a.i for a in node.attribute} for node in nodes]
    heads = [(count["num_heads"], count["kv_num_heads"]) for count in counts]
    expected = [
        (block.attention.num_heads, block.attention.num_key_value_heads)
        for block in model.anatomy.blocks
    ]
    assert heads == (expected if family in FUSED else [])
    assert (SHARED_CACHE in graph.metadata) == (family in FUSED)


@pytest.mark.parametrize("family", ["llama", "llama-fused", "gemma", "gpt2", "opt", "mixtral"])
def test_a_shared_table_is_stored_once(family, build):
    model, graph, _ = build(family)
    table = model.anatomy.shape(model.anatomy.embeddings["word"])
    stored = [
        name
        for name, tensor in graph.initializers.items()
        if sorted(tensor.shape.numpy()) == sorted(table)
    ]
    assert len(stored) == (1 if model.anatomy.tied_embeddings else 2)


@pytest.mark.parametrize("family", ["llama-fused", "gpt2", "opt", "phi3-partial", "granite"])
def test_dropped_layers_and_a_trimmed_vocabulary(family, tmp_path):
    model = make_model(family, tmp_path / "hf", unequal=False, layers=3)
    keep_layers(model, [0, 2])
    trim_model(model, list(range(90)))
    graph = emit(model, tmp_path / "stage")
    batch = decoded("left", 3)
    batch = replace(batch, tokens=batch.tokens % 90)
    assert largest_difference(model, session_of(graph), batch) < BOUND


def saved(module: torch.nn.Module, folder: Path) -> Model:
    """A module of transformers' with random weights, read again as a user's model is."""
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(torch.randn_like(parameter) * (0.2 if parameter.ndim > 1 else 0.1))
    module.save_pretrained(folder)
    return import_checkpoint(open_checkpoint(str(folder)))


def test_a_layer_that_is_left_keeps_its_window(tmp_path):
    types = ["full_attention", "full_attention", "sliding_attention"]
    settings = {**tiny_models._FUSED, "num_hidden_layers": 3, "layer_types": types}
    config = transformers.Qwen2Config(use_sliding_window=True, sliding_window=6, **settings)
    model = saved(transformers.Qwen2ForCausalLM(config), tmp_path / "hf")
    keep_layers(model, [0, 2])
    graph = emit(model, tmp_path / "stage")
    masks = [node.input[10] for node in graph.nodes if node.op_type == FUSED_ATTENTION]
    assert masks == ["/mask_output_0", "/mask_6_output_0"]
    assert largest_difference(model, session_of(graph), decoded("left", 3)) < BOUND


@pytest.mark.parametrize("family", ["llama-fused", "qwen3", "gemma", "gpt_neox", "qwen2_moe"])
def test_a_checkpoint_in_bfloat16_is_read_as_it_is(family, tmp_path):
    """Straight from what a user has, where no stage has written it anew."""
    make_model(family, tmp_path / "hf", unequal=False)
    file = tmp_path / "hf/model.safetensors"
    tensors = {name: tensor.bfloat16() for name, tensor in load_file(file).items()}
    save_file(tensors, file, metadata={"format": "pt"})
    model = import_checkpoint(open_checkpoint(str(tmp_path / "hf")))
    if model.anatomy.family.fused:  # which only loading takes apart
        save_model(model, tmp_path / "stage")
        graph = emitted(tmp_path / "stage")
    else:
        graph = emitted(tmp_path / "hf")
    assert graph is not None
    assert largest_difference(model, session_of(graph), decoded("left", 3)) < BOUND


def test_a_layer_that_is_left_keeps_whether_positions_turn_it(tmp_path):
    settings = {**tiny_models._FUSED, **tiny_models._IDS, "num_hidden_layers": 4}
    windows = {"use_sliding_window": True, "sliding_window": 6}
    config = transformers.SmolLM3Config(no_rope_layers=[0, 1, 1, 0], **windows, **settings)
    model = saved(transformers.SmolLM3ForCausalLM(config), tmp_path / "hf")
    keep_layers(model, [1, 3])
    assert model.config["no_rope_layers"] == [1, 0]
    graph = emit(model, tmp_path / "stage")
    nodes = [node for node in graph.nodes if node.op_type == FUSED_ATTENTION]
    turned = [entry.i for node in nodes for entry in node.attribute if entry.name == "do_rotary"]
    assert turned == [1, 0]
    assert [node.input[10] for node in nodes] == ["/mask_output_0", "/mask_6_output_0"]
    assert largest_difference(model, session_of(graph), decoded("left", 3)) < BOUND


def test_a_window_is_a_window(build):
    """The control: the same weights without one answer otherwise once a text is longer."""
    _, graph, session = build("mistral-fused")
    batch = decoded("left", 1)
    wide = graph.snapshot()
    assert wide.constant("/integer/6") == 6
    wide.add_constant("/integer/6", np.array(60, np.int64))
    narrow, open_ = by_graph(session, batch), by_graph(session_of(wide), batch)
    np.testing.assert_allclose(narrow[:, :6], open_[:, :6], rtol=0, atol=1e-5)
    assert np.abs(narrow[:, 6:] - open_[:, 6:]).max() > 0.01


UNKNOWN = {
    "llama": {"hidden_act": "mish"},
    "llama-fused": {"rope_scaling": {"rope_type": "proportional", "factor": 2.0}},
    "gpt2": {"scale_attn_by_inverse_layer_idx": True},
    "smollm3": {"no_rope_layers": None},
}


@pytest.mark.parametrize("family", UNKNOWN)
def test_what_is_not_written_down_is_not_emitted(family, tmp_path):
    model = make_model(family, tmp_path / "hf", unequal=False)
    save_model(model, tmp_path)
    checkpoint = open_checkpoint(str(tmp_path))
    config = checkpoint.config | UNKNOWN[family]
    weights = checkpoint.tensors(Weights)
    anatomy, task = checkpoint.anatomy, TASKS[checkpoint.task]
    assert emit_decoder(anatomy, checkpoint.config, weights, task, False) is not None
    assert emit_decoder(anatomy, config, weights, task, False) is None


def test_whole_heads_whose_positions_are_counted_from_the_cache_are_one_node(tmp_path):
    """Fusing a trace does not see through such positions."""
    config = transformers.GemmaConfig(head_dim=16, **tiny_models._LLAMA)
    model = saved(transformers.GemmaForCausalLM(config), tmp_path / "hf")
    graph = emit(model, tmp_path / "stage")
    assert sum(node.op_type == FUSED_ATTENTION for node in graph.nodes) == 2
    for side in ("left", "right"):
        assert largest_difference(model, session_of(graph), decoded(side, 3)) < BOUND


def test_scores_that_are_not_scaled(tmp_path):
    config = transformers.GPT2Config(scale_attn_weights=False, **tiny_models._GPT2)
    config._attn_implementation = "eager"  # the fused one scales whatever is said
    model = saved(transformers.GPT2LMHeadModel(config), tmp_path / "hf")
    model.module.set_attn_implementation("eager")
    graph = emit(model, tmp_path / "stage")
    assert largest_difference(model, session_of(graph), decoded("left", 2)) < BOUND


def test_norms_without_weights(tmp_path):
    settings = {**tiny_models._OPT, "layer_norm_elementwise_affine": False}
    config = transformers.OPTConfig(word_embed_proj_dim=32, enable_bias=False, **settings)
    with no_init_weights():  # which fails on such norms
        module = transformers.OPTForCausalLM(config)
    model = saved(module.tie_weights() or module, tmp_path / "hf")
    graph = emit(model, tmp_path / "stage")
    assert largest_difference(model, session_of(graph), decoded("left", 2)) < BOUND
