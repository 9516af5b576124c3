"""Emitted decoders go through the passes that traced ones go through, to the same operators."""

import itertools

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from few import few
from lowered_graphs import BATCH, FEED, VNNI, emission, operators
from sparse_models import library_for_tests
from tiny_builds import model_folder, recipe_file, text_file
from tiny_models import (
    DECODERS,
    EMITTED_DECODERS,
    FUSED_DECODERS,
    FUSED_POST_NORMED,
    MIXTURES,
    POST_NORMED,
    make_model,
)

from edgeprune.cli import main
from edgeprune.compress.quantize.model import Quantized, quantize_model
from edgeprune.compress.quantize.settings import QuantizeSettings
from edgeprune.export.emit.reference import padded_prompts
from edgeprune.export.graph import Graph
from edgeprune.export.rewrite.run import RewriteError, rewrite
from edgeprune.export.trace import export_onnx
from edgeprune.kernels import library
from edgeprune.model.model import Model
from edgeprune.runtime.bundle import Bundle
from edgeprune.runtime.cache import Decoder
from edgeprune.runtime.generate import Generator
from edgeprune.runtime.sampling import Sampling
from edgeprune.runtime.session import open_session

torch.set_num_threads(1)
FORMATS = {
    "int8": QuantizeSettings(massive_activations="none"),
    "a scale per token": QuantizeSettings(activations="token"),
    "static": QuantizeSettings(activations="static", massive_activations="none"),
    "int4": QuantizeSettings(weights="int4", symmetric=False),
    "head in float": QuantizeSettings(massive_activations="none", head=False, embeddings=False),
}
# What computes. The nodes about sizes, positions and masks are fewer than a tracer's.
OPERATORS = (
    *("MatMulInteger", "MatMulNBits", "MatMulIntegerToFloat", "DynamicQuantizeLinear"),
    *("QuantizeLinear", "GroupQueryAttention", "RotaryEmbedding", "LayerNormalization"),
    *("Softmax", "Split", "Sigmoid", "Relu", "Tanh", "SparseLinearInt8Add"),
    *("SparseLinearInt8SiluMul", "SparseLinearInt8"),
)


def lowered(
    model: Model, quantized: Quantized | None, folder, cache_bits: float | None = None
) -> Graph:
    """The graph of the model after every pass, none of which is undone."""
    path = folder / "emitted.onnx"
    source = emission(model, folder / "stage")
    reports = rewrite(source, path, model.anatomy, quantized, [FEED], VNNI, cache_bits)
    assert all(report.kept for report in reports)
    assert reports[0].name == "emit"
    return Graph.load(path)


BOTH_WAYS = ("gemma3_text-encoder", "modernbert", "modernbert-classifier")


# A family's graph is its own, a format's passes are the same for all.
EVERY = [*itertools.product((*DECODERS, *FUSED_DECODERS), FORMATS)]
ONE_OF_EACH = [
    *((family, kind) for family, kind in EVERY if kind == "int8"),
    *((family, kind) for family, kind in EVERY if family in (DECODERS[0], FUSED_DECODERS[0])),
]


@pytest.mark.parametrize(("family", "kind"), few(EVERY, ONE_OF_EACH))
def test_lowered_to_the_same_operators_as_a_trace(family, kind, tmp_path):
    model = make_model(family, tmp_path / "hf")
    quantized = quantize_model(model, [BATCH], FORMATS[kind], VNNI)
    own = operators(lowered(model, quantized, tmp_path))
    traced = tmp_path / "traced.onnx"
    rewrite(export_onnx(model, tmp_path), traced, model.anatomy, quantized, [FEED], VNNI)
    theirs = operators(Graph.load(traced))
    assert {name: own[name] for name in OPERATORS} == {name: theirs[name] for name in OPERATORS}
    assert sum(own.values()) < sum(theirs.values())


@pytest.mark.parametrize("kind", ["int8", "int4"])
@pytest.mark.parametrize("family", EMITTED_DECODERS)
def test_decoders_whose_trace_is_not_fused_end_in_integers(family, kind, tmp_path):
    model = make_model(family, tmp_path / "hf")
    counts = operators(
        lowered(model, quantize_model(model, [BATCH], FORMATS[kind], VNNI), tmp_path)
    )
    merged = 2 * len(model.anatomy.blocks)  # q, k and v are one product
    products = counts["MatMulInteger"] + counts["MatMulNBits"]
    assert products == len(model.anatomy.linears()) - merged
    assert counts["GroupQueryAttention"] == (2 if family in EMITTED_DECODERS[:3] else 0)


@pytest.mark.parametrize("kind", ["int8", "int4"])
@pytest.mark.parametrize("family", [*POST_NORMED, *FUSED_POST_NORMED, *BOTH_WAYS])
def test_norms_of_answers_end_in_integers(family, kind, tmp_path):
    """Every linear, and their attention as it was emitted; from a trace it is not told."""
    model = make_model(family, tmp_path / "hf")
    quantized = quantize_model(model, [BATCH], FORMATS[kind], VNNI)
    counts = operators(lowered(model, quantized, tmp_path))
    merged = 2 * len(model.anatomy.blocks)  # q, k and v are one product
    products = sum(
        counts[name] for name in ("MatMulInteger", "MatMulNBits", "MatMulIntegerToFloat")
    )
    assert products == len(model.anatomy.linears()) - merged
    assert counts["GroupQueryAttention"] == (2 if family in FUSED_POST_NORMED else 0)


@pytest.mark.parametrize("kind", ["int8", "a scale per token", "static", "int4"])
@pytest.mark.parametrize("family", MIXTURES)
def test_mixtures_of_experts_end_in_integers(family, kind, tmp_path):
    model = make_model(family, tmp_path / "hf", unequal=False)
    quantized = quantize_model(model, [BATCH], FORMATS[kind], VNNI)
    graph = lowered(model, quantized, tmp_path)
    counts = operators(graph)
    linears = len(model.anatomy.linears())
    merged = 2 * len(model.anatomy.blocks)  # q, k and v are one product
    products = sum(
        counts[name] for name in ("MatMulInteger", "MatMulNBits", "MatMulIntegerToFloat")
    )
    assert products == linears - merged
    # One row: most experts get none.
    session = open_session(tmp_path / "emitted.onnx", threads=1)
    logits = Decoder(session).start().feed(FEED["input_ids"][:1, :1])
    assert np.isfinite(logits).all()


def test_a_mixture_is_built_to_its_end(tmp_path):
    """Cut, emitted, in INT8, measured beside its original, and run."""
    recipe = """
name: mixture
text: {max_tokens: 16, batch_tokens: 256, held_out: 0.2, held_out_samples: 16}
cut: {experts: 0.25}
quantize: {calibration_samples: 8}
measure: {tokens: 12, seconds: 0.2, launches: 1, profile: false, curve: [], stages: false}
"""
    given = ["--model", model_folder(tmp_path / "hf", "mixtral")]
    given += ["--data", text_file(tmp_path / "t.txt"), "--output", tmp_path / "out"]
    file = recipe_file(tmp_path / "r.yaml", recipe)
    built = CliRunner().invoke(main, ["build", str(file), *map(str, given)])
    assert built.exit_code == 0, built.output
    bundle = Bundle.open(tmp_path / "out/bundle")
    [stage] = [stage for stage in bundle.manifest["stages"] if stage["name"] == "rewrite"]
    assert [step["name"] for step in stage["passes"]][:2] == ["emit", "int8 embeddings"]
    tokens = list(Generator(bundle).generate_ids([4, 5, 6], Sampling(max_tokens=5)))
    assert 0 < len(tokens) <= 5


@pytest.mark.parametrize("family", [*FUSED_DECODERS, *FUSED_POST_NORMED, *EMITTED_DECODERS[:3]])
def test_a_cache_of_eight_bits(family, tmp_path):
    model = make_model(family, tmp_path / "hf")
    graph = lowered(model, None, tmp_path, cache_bits=8.0)
    caches = [node for node in graph.nodes if node.op_type == "GroupQueryAttention"]
    assert [node.input[12:] for node in caches] == [
        [f"past_key_values.{layer}.{part}.scale" for part in ("key", "value")] for layer in range(2)
    ]


def test_sparse_linears_are_those_of_a_trace(tmp_path, monkeypatch, tmp_path_factory):
    built = library_for_tests(tmp_path_factory.mktemp("library"))
    monkeypatch.setattr(library, "LIBRARY", built)
    model = make_model("llama", tmp_path / "hf", unequal=False)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name in model.anatomy.block_linears():
            weight = model.linear(name).weight
            kept = torch.rand(
                -(-weight.shape[0] // 16), -(-weight.shape[1] // 4), generator=generator
            )
            kept = (kept > 0.9).repeat_interleave(16, 0).repeat_interleave(4, 1)
            weight.mul_(kept[: weight.shape[0], : weight.shape[1]])
    settings = QuantizeSettings(massive_activations="none")
    quantized = quantize_model(model, [BATCH], settings, VNNI)
    assert any(entry.format == "sparse-4x16" for entry in quantized.plan)
    own = operators(lowered(model, quantized, tmp_path))
    traced = tmp_path / "traced.onnx"
    rewrite(export_onnx(model, tmp_path), traced, model.anatomy, quantized, [FEED], VNNI)
    theirs = operators(Graph.load(traced))
    sparse = {name for name in theirs if name.startswith("SparseLinear")}
    assert sparse
    assert {name: own[name] for name in sparse} == {name: theirs[name] for name in sparse}


@pytest.mark.parametrize("family", ["llama-fused", "gpt2", "mixtral"])
def test_a_graph_that_answers_otherwise_is_refused(family, tmp_path):
    model = make_model(family, tmp_path / "hf", unequal=False)
    source = emission(model, tmp_path / "stage")
    for name in [name for name in source.graph.initializers if name.startswith("/number/1e-")]:
        source.graph.add_constant(name, np.array(2e-3, np.float32))  # a norm's epsilon
    for node in source.graph.nodes:
        for attribute in node.attribute:
            if attribute.name == "epsilon":
                attribute.f = 2e-3
    with pytest.raises(RewriteError, match="the emitted graph differs by"):
        rewrite(source, tmp_path / "o.onnx", model.anatomy, None, [FEED], VNNI)
    assert not (tmp_path / "o.onnx").exists()


def test_prompts_are_padded_on_either_side():
    right, left = padded_prompts([FEED])
    for prompt in (right, left):
        lengths = prompt["attention_mask"].sum(axis=1)
        assert len(set(lengths)) == len(lengths)
        assert lengths.max() < prompt["attention_mask"].shape[1]
    for row, mask in enumerate(right["attention_mask"]):
        count = mask.sum()
        np.testing.assert_array_equal(mask[:count], 1)
        np.testing.assert_array_equal(left["attention_mask"][row, -count:], 1)
        np.testing.assert_array_equal(
            right["input_ids"][row, :count], left["input_ids"][row, -count:]
        )


def test_a_graph_that_ignores_padding_in_front_is_refused(tmp_path):
    """The batches themselves have none."""
    model = make_model("llama", tmp_path / "hf", unequal=False)
    source = emission(model, tmp_path / "stage")
    [real] = [node for node in source.graph.nodes if node.name == "/real/Cast"]
    shape = source.graph.add("Shape", ["attention_mask"], "/test/Shape")
    real.input[0] = source.graph.add("Expand", ["/integer/1", shape], "/test/Whole")
    source.graph.index()
    with pytest.raises(RewriteError, match="the emitted graph differs by"):
        rewrite(source, tmp_path / "o.onnx", model.anatomy, None, [FEED], VNNI)
