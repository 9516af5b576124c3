"""Every family: what is cut equals what was masked, and survives a round trip through a folder."""

import pytest
import torch
import transformers
from prospects import facts_of
from tiny_models import (
    CLASSIFIERS,
    DECODERS,
    ENCODERS,
    HYBRIDS,
    MIXTURES,
    ODD_DECODERS,
    POST_NORMED,
    REPEATED,
    make_batch,
    make_model,
)
from torch import Tensor

from edgeprune.base.errors import UserError
from edgeprune.compress.calibrate.gates import CHANNELS, HEADS, Gate, applied, make_gates
from edgeprune.compress.cut.settings import CutSettings
from edgeprune.compress.cut.stage import cut, remove_masked
from edgeprune.compress.cut.surgery import keep_channels, keep_heads
from edgeprune.model.checkpoint import open_checkpoint
from edgeprune.model.families import known_model_types
from edgeprune.model.importing import import_checkpoint
from edgeprune.model.model import Model
from edgeprune.model.store import load_model, save_model
from edgeprune.pipeline.recipe import validate

GROUPED = (
    *DECODERS[:6],
    "phi3",
    "smollm3",
    "granite",
    "phi-grouped",
    "phi3-partial",
    "llama-biased",
)
FAMILY_NAMES = tuple(
    dict.fromkeys(
        (*ENCODERS, *CLASSIFIERS, *REPEATED[:2], *DECODERS, "granite", *ODD_DECODERS, *POST_NORMED)
    )
)
TESTED = (*FAMILY_NAMES, *HYBRIDS, *MIXTURES)

# Kept units per layer. Layers end with different sizes; a decoder's heads are slots of its groups.
CHANNELS_KEPT = ([0, 2, 3, 5, 8, 13, 21, 34, 39], list(range(1, 40, 2)))
ENCODER_HEADS_KEPT = ([1], [0, 2, 3])
DECODER_SLOTS_KEPT = ([1], [0, 1])


@torch.no_grad()
def answer(model: Model, batch: dict[str, Tensor]) -> Tensor:
    """Logits, or hidden states at the places that hold a token."""
    output = model.module(**batch)[0]
    return output if output.ndim == 2 else output[batch["attention_mask"] == 1]


def masks_for(model: Model, kind: str) -> list[Tensor]:
    """Kept units [units] of every layer."""
    decoder = model.anatomy.causal
    kept = ENCODER_HEADS_KEPT if not decoder else DECODER_SLOTS_KEPT
    masks = []
    for gate, units in zip(
        make_gates(model, kind), CHANNELS_KEPT if kind == CHANNELS else kept, strict=True
    ):
        count = len(gate.value) if gate.groups is None else int(gate.groups.max()) + 1
        mask = torch.zeros(count, dtype=torch.bool)
        mask[units] = True
        masks.append(mask)
    return masks


def close(gates: list[Gate], masks: list[Tensor]) -> None:
    """Set the gates of units that are not kept to 0."""
    with torch.no_grad():
        for gate, mask in zip(gates, masks, strict=True):
            gate.value.copy_(mask if gate.groups is None else mask[gate.groups])


def kinds_of(model: Model) -> tuple[str, ...]:
    attention = model.anatomy.blocks[0].attention
    fixed = model.anatomy.causal and (attention.heads_per_group == 1 or model.anatomy.heads_stay)
    return (CHANNELS,) if fixed else (CHANNELS, HEADS)


def cut_model(family: str, folder, batch: dict[str, Tensor]) -> tuple[Model, Tensor]:
    """A model whose masked units were cut, and what it answered while they were masked."""
    model = make_model(family, folder, unequal=False)
    gates, masks = {}, {}
    for kind in kinds_of(model):
        gates[kind], masks[kind] = make_gates(model, kind), masks_for(model, kind)
        close(gates[kind], masks[kind])
    with applied(model, [gate for each in gates.values() for gate in each]):
        masked = answer(model, batch)
    for kind in masks:
        remove_masked(model, kind, masks[kind])
    return model, masked


def test_every_known_family_is_tested():
    tested = {"xlm-roberta" if name == "roberta" else name for name in TESTED}
    assert set(known_model_types()) - {"roberta"} <= tested
    assert len(known_model_types()) == len(set(known_model_types()))


@pytest.mark.parametrize("family", FAMILY_NAMES)
def test_cut_equals_masked_and_loads_again(family, tmp_path):
    batch = make_batch(rows=4)
    model, masked = cut_model(family, tmp_path / "hf", batch)
    whole = answer(import_checkpoint(open_checkpoint(str(tmp_path / "hf"))), batch)
    assert (masked - whole).abs().max() > 1e-3  # the gates did something
    got = answer(model, batch)
    assert (got - masked).abs().max() < 4e-6 * masked.abs().max()

    save_model(model, tmp_path / "cut")
    again = load_model(tmp_path / "cut")
    # Tables of distances are multiplied, as they lie in memory.
    atol = 2e-6 if model.anatomy.family.disentangled else 0
    torch.testing.assert_close(answer(again, batch), got, rtol=0, atol=atol)
    assert (again.heads, again.channels) == (model.heads, model.channels)
    assert again.channels == [list(kept) for kept in CHANNELS_KEPT]
    # From the shapes in the file alone, as from the module.
    seen = open_checkpoint(str(tmp_path / "cut")).anatomy
    assert seen.blocks == again.anatomy.blocks == model.anatomy.blocks
    assert seen.linears() == again.anatomy.linears()
    assert seen.embeddings == again.anatomy.embeddings


@pytest.mark.parametrize("family", FAMILY_NAMES)
def test_a_checkpoint_is_described_as_its_module(family, tmp_path):
    model = make_model(family, tmp_path, unequal=False)
    seen = open_checkpoint(str(tmp_path)).anatomy
    assert seen.blocks == model.anatomy.blocks
    assert seen.linears() == model.anatomy.linears()
    assert seen.embeddings == model.anatomy.embeddings
    assert seen.tied_embeddings == model.anatomy.tied_embeddings
    for block in seen.blocks:
        assert block.attention.num_heads == 4
        assert block.attention.head_dim == 8
        assert block.feed_forward.channels == 40
    for name, role in seen.linears().items():
        linear = model.module.get_submodule(name)
        assert tuple(linear.weight.shape) == seen.shape(name), role


@pytest.mark.parametrize("family", [*FAMILY_NAMES, *HYBRIDS])
def test_import_is_the_model_that_transformers_saved(family, tmp_path):
    make_model(family, tmp_path, unequal=False)
    batch = make_batch()
    auto = {
        "feature-extraction": transformers.AutoModel,
        "text-classification": transformers.AutoModelForSequenceClassification,
        "text-generation": transformers.AutoModelForCausalLM,
    }
    model = import_checkpoint(open_checkpoint(str(tmp_path)))
    with torch.no_grad():
        output = auto[model.task].from_pretrained(tmp_path).eval()(**batch)[0]
    expected = output if output.ndim == 2 else output[batch["attention_mask"] == 1]
    # Three products in place of a fused one may sum in another order.
    family_of = model.anatomy.family
    atol = 1e-5 if family_of.fused or family_of.disentangled else 0
    torch.testing.assert_close(answer(model, batch), expected, rtol=0, atol=atol)
    expected_task = "text-classification" if "classifier" in family else "feature-extraction"
    if model.anatomy.causal:
        expected_task = "text-generation"
    assert model.task == expected_task


def test_weights_in_half_precision_are_read_into_float32(tmp_path):
    model = make_model("bert", tmp_path / "hf", unequal=False)
    model.module.half().save_pretrained(tmp_path / "half")
    again = import_checkpoint(open_checkpoint(str(tmp_path / "half")))
    assert {p.dtype for p in again.module.parameters()} == {torch.float32}
    name = again.anatomy.blocks[0].feed_forward.up
    torch.testing.assert_close(
        again.linear(name).weight, model.linear(name).weight.float(), rtol=0, atol=0
    )


def test_heads_leave_bert_as_if_nothing_read_them(tmp_path):
    model = make_model("bert", tmp_path, unequal=False)
    oracle = transformers.AutoModel.from_pretrained(tmp_path).eval()
    left = ([1], [0, 2, 3])
    batch = make_batch()
    rows = [torch.cat([torch.arange(8) + 8 * head for head in kept]) for kept in left]
    for layer, (kept, own) in enumerate(zip(left, rows, strict=True)):
        reader = oracle.encoder.layer[layer].attention.output.dense
        gone = torch.ones(32, dtype=torch.bool).index_fill(0, own, False)
        with torch.no_grad():
            reader.weight[:, gone] = 0
        keep_heads(model, layer, kept)
    with torch.no_grad():
        expected = oracle(**batch)[0][batch["attention_mask"] == 1]
    torch.testing.assert_close(answer(model, batch), expected, rtol=0, atol=1e-6)
    for block, theirs, own in zip(model.anatomy.blocks, oracle.encoder.layer, rows, strict=True):
        mine, value = model.linear(block.attention.value), theirs.attention.self.value
        torch.testing.assert_close(mine.weight, value.weight[own], rtol=0, atol=0)
        torch.testing.assert_close(mine.bias, value.bias[own], rtol=0, atol=0)


@pytest.mark.parametrize("family", GROUPED)
def test_query_heads_leave_and_key_value_heads_stay(family, tmp_path):
    model = make_model(family, tmp_path, unequal=False)
    keep_heads(model, 0, [1, 2])  # the second of the first group, the first of the second
    attention = model.anatomy.blocks[0].attention
    assert (attention.num_heads, attention.num_key_value_heads) == (2, 2)
    assert model.config["num_key_value_heads"] == 2
    cache = model.module(make_batch()["input_ids"], use_cache=True).cache
    assert {layer.keys.shape[1] for layer in cache.layers} == {2}
    with pytest.raises(UserError, match="equally many"):
        keep_heads(model, 1, [0, 1, 2])


def test_cutting_twice_is_cutting_once(tmp_path):
    batch = make_batch()
    twice, once = (make_model("mpnet", tmp_path / n, unequal=False) for n in ("a", "b"))
    keep_heads(twice, 0, [0, 1, 3])
    keep_heads(twice, 0, [1, 2])  # of those that are left: 1 and 3 of the original
    keep_heads(once, 0, [1, 3])
    assert twice.heads == once.heads == [[1, 3], [0, 1, 2, 3]]
    torch.testing.assert_close(answer(twice, batch), answer(once, batch), rtol=0, atol=0)


def test_a_decoder_with_groups_of_one_keeps_its_heads(tmp_path):
    model = make_model("llama-ungrouped", tmp_path, unequal=False)
    scores = [torch.rand(1), torch.rand(1)]
    with pytest.raises(UserError, match="cannot keep 1 of 2 units"):
        cut(model, HEADS, scores, 0.5, CutSettings(heads=0.5))


def test_ungrouped_decoders_say_why_their_heads_stay(tmp_path):
    for family in ("gpt2", "opt", "gpt_neox"):
        model = make_model(family, tmp_path / family, unequal=False)
        with pytest.raises(UserError, match="keeps equally many for each"):
            keep_heads(model, 0, [0, 1])


def test_heads_that_are_normed_together_stay(tmp_path):
    """Without one the mean square of the others is another: the masked model is not the cut one."""
    model = make_model("olmo2", tmp_path, unequal=False)
    with pytest.raises(UserError, match="normed together, so that none can leave"):
        keep_heads(model, 0, [0, 2])
    facts = facts_of(validate({"cut": {"heads": 0.5}}, "r"), open_checkpoint(str(tmp_path)))
    with pytest.raises(UserError, match="norms the queries of all its heads together"):
        facts.refuse_whole_groups()


@pytest.mark.parametrize("family", ["bert", "llama"])
def test_a_layer_is_never_emptied(family, tmp_path):
    model = make_model(family, tmp_path, unequal=False)
    with pytest.raises(UserError, match=r"cut\.channels would leave layer 0 without any"):
        keep_channels(model, 0, [])
    with pytest.raises(UserError, match=r"cut\.heads would leave layer 1 without any"):
        keep_heads(model, 1, [])


def test_an_unknown_family_says_which_are_known(tmp_path):
    config = transformers.BloomConfig(
        vocab_size=30, hidden_size=8, n_layer=1, n_head=2, architectures=["BloomModel"]
    )
    transformers.BloomModel(config).save_pretrained(tmp_path)
    with pytest.raises(UserError, match=r"'bloom'.*bert, .*llama") as error:
        open_checkpoint(str(tmp_path)).anatomy  # noqa: B018
    assert all(name in str(error.value) for name in known_model_types())
