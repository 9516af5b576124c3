"""One-shot pruning of whole tiny models: what each layer sees, counts, memory, the stage."""

import gc
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from safetensors.torch import load_file
from tiny_models import ENCODERS, ODD_DECODERS, POST_NORMED, VOCABULARY, make_batch, make_model
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from edgeprune.base.errors import UserError
from edgeprune.compress.calibrate.walk import Walk, input_groups
from edgeprune.compress.prune import oneshot
from edgeprune.compress.prune.allocate import uniform_counts
from edgeprune.compress.prune.criteria import CRITERIA
from edgeprune.compress.prune.methods import METHODS
from edgeprune.compress.prune.oneshot import prune_layers, solver_of
from edgeprune.model.anatomy import Block
from edgeprune.model.checkpoint import open_checkpoint
from edgeprune.model.forward import tensors
from edgeprune.model.importing import import_checkpoint
from edgeprune.model.model import Model
from edgeprune.model.store import load_masks, load_model
from edgeprune.text.batches import Batch

ONE_SHOT = tuple(CRITERIA)
FAMILIES = (
    *ENCODERS,
    "llama",
    "mistral",
    "qwen2",
    "qwen3",
    "untied",
    "gemma",
    "gpt2",
    *ODD_DECODERS,
    *POST_NORMED,
    "gemma3_text-encoder",
)


def batches_of(count: int = 3) -> list[Batch]:
    made = [make_batch(rows=3 + i, tokens=9 + i, seed=i) for i in range(count)]
    return [Batch(b["input_ids"].numpy(), b["attention_mask"].numpy()) for b in made]


def solve_by(method: str, **values: object):
    return solver_of(METHODS[method].settings(method=method, **values))


def whole_inputs(model: Model, batches: list[Batch], name: str) -> Tensor:
    """What a linear reads in plain runs of the whole model, at real tokens [tokens, in]."""
    rows: list[Tensor] = []
    for batch in batches:
        mask = torch.from_numpy(batch.attention_mask).bool()
        handle = model.linear(name).register_forward_pre_hook(
            lambda _m, args, mask=mask: rows.append(
                args[0].reshape(*mask.shape, -1)[mask]  # OPT lays texts and tokens into one axis
            )
        )
        with torch.no_grad():
            model.module(**tensors(batch))
        handle.remove()
    return torch.cat(rows)


# the walk --------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", FAMILIES)
def test_the_walk_sees_what_the_whole_model_sees(family, tmp_path):
    """Every linear's inputs, after everything before it was changed: as if run from the start."""
    model, batches = make_model(family, tmp_path), batches_of()
    walk = Walk(model, batches)
    seen = []
    for block in model.anatomy.blocks:
        for names in input_groups(block):
            for name in names:
                x = whole_inputs(model, batches, name)
                found = walk.inputs(block, name)
                assert found.tokens == len(x) == sum(b.attention_mask.sum() for b in batches)
                torch.testing.assert_close(found.gram, x.T @ x, rtol=1e-3, atol=1e-3)
                torch.testing.assert_close(found.total, x.sum(0), rtol=1e-3, atol=1e-3)
                seen.append(name)
            for name in names:
                model.linear(name).weight.data.mul_(0.7)
        walk.advance(block)
    assert seen == list(model.anatomy.block_linears())


def flops(work: Callable[[], object]) -> int:
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        work()
    return counter.get_total_flops()


@pytest.mark.parametrize("family", FAMILIES)
def test_looks_compute_nothing_twice(family, tmp_path):
    """Counted by torch; only the attention's output linear may answer once or twice more."""
    model, batches = make_model(family, tmp_path, unequal=False), batches_of()
    block = model.anatomy.blocks[0]
    walk = Walk(model, batches)

    def looks() -> None:
        for names in input_groups(block):
            walk.energy(block, names[0])
        walk.advance(block)

    plain, other = walk.fork(), walk.fork()
    tokens = sum(batch.input_ids.size for batch in batches)
    output = 2 * tokens * model.linear(block.attention.output).weight.numel()
    assert flops(looks) <= flops(lambda: plain.advance(block)) + 2 * output
    for name in list(block.linears())[::2]:  # a look may come alone, or again
        other.energy(block, name)
        other.energy(block, block.attention.value)
        other.energy(block, name)
    other.advance(block)
    for ours, theirs, its in zip(walk.hidden, other.hidden, plain.hidden, strict=True):
        torch.testing.assert_close(ours, its, rtol=0, atol=1e-5)
        torch.testing.assert_close(theirs, its, rtol=0, atol=1e-5)


def test_a_linear_that_is_looked_at_again_is_seen_anew(tmp_path):
    model, batches = make_model("llama", tmp_path), batches_of()
    attention = model.anatomy.blocks[0].attention
    walk = Walk(model, batches)
    for _ in range(2):
        x = whole_inputs(model, batches, attention.output)
        found = walk.inputs(model.anatomy.blocks[0], attention.output)
        torch.testing.assert_close(found.gram, x.T @ x, rtol=1e-3, atol=1e-3)
        model.linear(attention.value).weight.data.mul_(0.5)


def test_the_walk_leaves_the_model_as_it_was(tmp_path):
    model, (batch, *_) = make_model("llama", tmp_path), batches_of()
    with torch.no_grad():
        before = model.module(**tensors(batch)).logits
        walk = Walk(model, [batch])
        block = model.anatomy.blocks[0]
        walk.inputs(block, block.attention.output)
        walk.advance(block)
        assert torch.equal(model.module(**tensors(batch)).logits, before)
    layer = model.module.get_submodule(block.name)
    assert "forward" not in vars(layer)
    assert not any(m._forward_pre_hooks for m in layer.modules())


def test_inputs_that_are_not_finite_are_refused(tmp_path):
    model = make_model("bert", tmp_path)
    block = model.anatomy.blocks[0]
    model.linear(block.attention.value).weight.data[0, 0] = torch.inf
    walk = Walk(model, batches_of())
    with pytest.raises(UserError, match=r"attention\.output\.dense reads values .* not finite"):
        walk.inputs(block, block.attention.output)


# a model ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ONE_SHOT)
@pytest.mark.parametrize("family", ["bert", "llama"])
def test_a_model_loses_exactly_its_share(family, method, tmp_path):
    model, batches = make_model(family, tmp_path), batches_of()
    before = {n: model.linear(n).weight.detach().clone() for n in model.anatomy.block_linears()}
    counts = uniform_counts(model, "weights", 0.6)
    masks, layers = prune_layers(model, Walk(model, batches), counts, "weights", solve_by(method))
    total = sum(weight.numel() for weight in before.values())
    assert list(masks) == list(layers) == list(before)
    assert sum(int((~mask).sum()) for mask in masks.values()) == round(0.6 * total)
    for name, mask in masks.items():
        weight = model.linear(name).weight
        assert not weight[~mask].any()
        assert layers[name].removed == counts[name]
        assert abs(counts[name] - 0.6 * mask.numel()) <= 1
        x = whole_inputs(model, batches, name)  # nothing before it changed since it was pruned
        change = torch.linalg.norm(x @ (weight - before[name]).T)
        expected = float(change.detach() / torch.linalg.norm(x @ before[name].T))
        assert layers[name].error == pytest.approx(expected, rel=1e-2)
        assert torch.equal(weight[mask], before[name][mask]) == (method in ("magnitude", "wanda"))


def distance(model: Model, original: Model, batches: list[Batch]) -> float:
    total = 0.0
    for batch in batches:
        mask = torch.from_numpy(batch.attention_mask).bool()
        with torch.no_grad():
            ours, its = (m.module(**tensors(batch))[0][mask] for m in (model, original))
        total += float((ours - its).square().sum())
    return total


@pytest.mark.parametrize("family", ["bert", "llama"])
@pytest.mark.parametrize("pattern", ["weights", "4x1"])
def test_correction_brings_the_whole_model_nearer(family, pattern, tmp_path):
    """On text that the solvers did not see; uncorrelated random weights make it no easy case."""
    original = make_model(family, tmp_path)
    text = [
        Batch(b["input_ids"].numpy(), b["attention_mask"].numpy())
        for b in (make_batch(rows=16, tokens=24, seed=seed) for seed in range(14))
    ]
    far = {}
    for method in ("magnitude", "wanda", "sparsegpt", "thanos"):
        model = make_model(family, tmp_path)
        counts = uniform_counts(model, pattern, 0.5)
        prune_layers(model, Walk(model, text[:10]), counts, pattern, solve_by(method))
        far[method] = distance(model, original, text[10:])
    assert max(far["sparsegpt"], far["thanos"]) < min(far["wanda"], far["magnitude"])


def test_n_m_asks_of_each_shape_what_it_can_give(tmp_path):
    model = make_model("llama", tmp_path)  # a down projection has 23 inputs
    counts = uniform_counts(model, "2:4", 0.5)
    for name, count in counts.items():
        rows, columns = model.anatomy.shape(name)
        assert count == rows * (columns // 4 * 2 + max(0, columns % 4 - 2))


# memory ----------------------------------------------------------------------------------------


def live_bytes() -> int:
    """Bytes of all tensors that are alive, each storage once."""
    found = [each for each in gc.get_objects() if type(each) in (Tensor, torch.nn.Parameter)]
    return sum(
        {x.untyped_storage().data_ptr(): x.untyped_storage().nbytes() for x in found}.values()
    )


def deep_llama(folder: Path, layers: int) -> Model:
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=VOCABULARY, hidden_size=64, num_hidden_layers=layers, num_attention_heads=4,
        num_key_value_heads=2, intermediate_size=96, max_position_embeddings=96,
    )  # fmt: skip
    transformers.LlamaForCausalLM(config).save_pretrained(folder)
    return import_checkpoint(open_checkpoint(str(folder)))


def peak_beside_the_model(model: Model) -> int:
    """The most that is alive as a down projection is solved, beside all weights and masks."""
    peak = 0
    gc.collect()
    before = live_bytes()
    solve = solve_by("sparsegpt")
    done = 0

    def watched(weight: Tensor, gram: Tensor, pattern: str, count: int):
        nonlocal peak, done
        if weight.shape[1] == 96:
            peak = max(peak, live_bytes() - done)
        done += weight.numel()  # the mask that it will add, a byte each
        return solve(weight, gram, pattern, count)

    walk = Walk(model, batches_of())
    prune_layers(model, walk, uniform_counts(model, "weights", 0.5), "weights", watched)
    return peak - before


def test_memory_grows_with_a_layer_and_not_with_their_number(tmp_path):
    shallow = peak_beside_the_model(deep_llama(tmp_path / "4", 4))
    deep = peak_beside_the_model(deep_llama(tmp_path / "16", 16))
    one_gram = 96 * 96 * 4
    assert shallow > one_gram
    assert deep < shallow + one_gram / 2


# the stage -------------------------------------------------------------------------------------


class FakeBuild:
    """What the stage asks of a build."""

    def calibration(self, sequences: int, together: int | None = None) -> list[Batch]:
        assert sequences == 9
        return batches_of()


@pytest.mark.parametrize("pattern", ["weights", "2:4", "4x16", "columns"])
@pytest.mark.parametrize(("family", "method"), [("bert", "thanos"), ("llama", "wanda")])
def test_the_stage_writes_masks_that_hold(family, method, pattern, tmp_path):
    make_model(family, tmp_path / "in", unequal=False)
    settings = METHODS[method].settings(method=method, pattern=pattern, samples=9)
    result = oneshot.run(FakeBuild(), tmp_path / "in", tmp_path / "out", settings)
    model, masks = load_model(tmp_path / "out"), load_masks(tmp_path / "out")
    assert set(masks) == set(model.anatomy.block_linears())
    gone = sum(int((mask == 0).sum()) for mask in masks.values())
    assert result["removed"] == gone
    assert result["weights"] == sum(mask.numel() for mask in masks.values())
    for name, mask in masks.items():
        assert mask.dtype == torch.uint8
        assert not model.linear(name).weight[mask == 0].any()
        assert np.isfinite(result["layers"][name]["error"])
    if pattern == "4x16":  # 40 channels are two and a half blocks of 16
        assert 0.45 < gone / result["weights"] < 0.55
    else:
        assert gone == result["weights"] // 2
    assert (tmp_path / "out" / "model.safetensors").exists()
    assert load_file(tmp_path / "out" / "model.safetensors")


def test_input_groups_are_the_linears_in_order(tmp_path):
    for family in ("bert", "llama"):
        anatomy = make_model(family, tmp_path / family).anatomy
        for block in anatomy.blocks:
            assert isinstance(block, Block)
            names = [name for group in input_groups(block) for name in group]
            assert names == [n for n in anatomy.block_linears() if n.startswith(f"{block.name}.")]
