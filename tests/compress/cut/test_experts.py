"""Mixtures of experts: described, cut equal to masked, scored beside brute force."""

import pytest
import torch
import transformers
from calibration_batches import make_batches
from passing_blocks import passing_by
from prospects import build_of
from safetensors.torch import load_file, save_file
from tiny_builds import text_file
from tiny_models import MIXTURES, make_batch, make_model
from torch import Tensor
from torch.nn import functional

from edgeprune.base.errors import UserError
from edgeprune.compress.calibrate.gates import CHANNELS, applied, make_gates
from edgeprune.compress.calibrate.walk import input_groups
from edgeprune.compress.cut.collect import unit_scores
from edgeprune.compress.cut.experts import drop_experts, expert_scores, keep_experts
from edgeprune.compress.cut.settings import CutSettings
from edgeprune.compress.cut.stage import cut
from edgeprune.compress.cut.surgery import keep_layers
from edgeprune.compress.objectives.generation import next_token_loss
from edgeprune.model.checkpoint import WEIGHTS, open_checkpoint
from edgeprune.model.forward import tensors as as_tensors
from edgeprune.model.importing import import_checkpoint
from edgeprune.model.model import Model
from edgeprune.model.store import load_model, save_model
from edgeprune.pipeline.checks import check
from edgeprune.pipeline.recipe import validate
from edgeprune.text.batches import text_by_text
from edgeprune.text.settings import TextSettings
from edgeprune.text.text import open_text

IDS = make_batch(rows=1, tokens=30)["input_ids"]


@torch.no_grad()
def answer(model: Model) -> Tensor:
    return model.module(IDS).logits


def again(model: Model, folder) -> Model:
    save_model(model, folder)
    return load_model(folder)


def mixtures(model: Model):
    return [block for block in model.anatomy.blocks if block.experts]


@pytest.mark.parametrize("family", MIXTURES)
def test_a_checkpoint_is_described_as_its_module(family, tmp_path):
    model = make_model(family, tmp_path, False)
    seen = open_checkpoint(str(tmp_path)).anatomy
    assert seen.blocks == model.anatomy.blocks
    assert seen.linears() == model.anatomy.linears()
    for name in seen.linears():
        assert tuple(model.linear(name).weight.shape) == seen.shape(name)
    count = {"mixtral": [4, 4], "qwen2_moe": [1, 5], "qwen3_moe": [4, 4]}[family]
    assert [len(block.feed_forwards) for block in seen.blocks] == count
    assert sum(count) == len(model.channels)
    routers = {block.experts.router for block in mixtures(model)}
    assert not routers & set(seen.linears())
    # Every weight matrix of the layers is a linear of the anatomy, or routes.
    matrices = {
        name.removesuffix(".weight")
        for name, value in model.module.named_parameters()
        if value.ndim == 2 and ".layers." in name
    }
    apart = {name for name in matrices if name.endswith("shared_expert_gate")}
    assert matrices == set(seen.block_linears()) | routers | apart


@pytest.mark.parametrize("family", MIXTURES)
def test_channels_of_experts_cut_as_masked(family, tmp_path):
    model = make_model(family, tmp_path / "hf", False)
    whole = answer(model)
    batches = make_batches(windows=True)
    scores = unit_scores(model, batches, [CHANNELS], "fisher", 0)[CHANNELS]
    assert [len(score) for score in scores] == [len(own) for own in model.channels]
    gates, before = make_gates(model, CHANNELS), sum(map(len, model.channels))
    with torch.no_grad():
        masked_by = make_model(family, tmp_path / "hf", False)
        cut(model, CHANNELS, scores, 0.4, CutSettings(policy="coverage"))
        for gate, kept in zip(gates, model.channels, strict=True):
            gate.value.zero_()
            gate.value[kept] = 1
        with applied(masked_by, gates):
            masked = answer(masked_by)
    got = answer(model)
    assert sum(map(len, model.channels)) == before - round(0.4 * before)
    assert (masked - whole).abs().max() > 1e-3
    torch.testing.assert_close(got, masked, rtol=0, atol=1e-5)
    loaded = again(model, tmp_path / "cut")
    # Weights lie in a file at other addresses than in memory, and may sum in another order.
    torch.testing.assert_close(answer(loaded), got, rtol=0, atol=1e-6)
    assert loaded.channels == model.channels


@pytest.mark.parametrize("family", MIXTURES)
def test_fisher_of_an_experts_channel_is_its_gates_squared_gradient(family, tmp_path):
    model, batches = make_model(family, tmp_path, False), make_batches(windows=True)
    got = unit_scores(model, batches, [CHANNELS], "fisher", 0)[CHANNELS]
    gates = make_gates(model, CHANNELS)
    expected = [torch.zeros(len(gate.value), dtype=torch.float64) for gate in gates]
    for batch in text_by_text(batches):
        with applied(model, gates):
            loss = next_token_loss(model.module(**as_tensors(batch)).logits, batch)
        slopes = torch.autograd.grad(loss, [g.value for g in gates], allow_unused=True)
        for total, slope in zip(expected, slopes, strict=True):
            total += 0 if slope is None else slope.double().square()
    for mine, its in zip(got, expected, strict=True):
        torch.testing.assert_close(mine, its, rtol=1e-3, atol=1e-9)


@pytest.mark.parametrize("score", ["taylor", "flap", "probe_pruning", "magnitude"])
def test_every_score_takes_experts(score, tmp_path):
    model = make_model("qwen2_moe", tmp_path, False)
    with torch.no_grad():
        for part in model.anatomy.feed_forwards:
            model.linear(part.up).weight[3] = 0
            model.linear(part.gate).weight[3] = 0
            model.linear(part.down).weight[:, 3] = 0
    for scores in unit_scores(model, make_batches(True), [CHANNELS], score, 0)[CHANNELS]:
        assert float(scores[3]) == 0
        assert float(scores.max()) > 0


@pytest.mark.parametrize("family", MIXTURES)
def test_experts_leave_as_if_they_could_not_be_chosen(family, tmp_path):
    model = make_model(family, tmp_path / "hf", False)
    kept = [[0, 2, 3], [1, 2, 3]][: len(mixtures(model))]
    handles = []
    for block, own in zip(mixtures(model), kept, strict=True):
        gone = [number for number in range(4) if number not in own]

        def never(_module, _args, logits, gone=gone):
            return logits.index_fill(-1, torch.tensor(gone), -torch.inf)

        handles.append(model.linear(block.experts.router).register_forward_hook(never))
    masked = answer(model)
    for handle in handles:
        handle.remove()
    whole = answer(model)
    keep_experts(model, kept)
    got = answer(model)
    assert (masked - whole).abs().max() > 1e-3
    torch.testing.assert_close(got, masked, rtol=0, atol=1e-5)
    loaded = again(model, tmp_path / "cut")
    torch.testing.assert_close(answer(loaded), got, rtol=0, atol=1e-6)
    assert [block.experts.count for block in mixtures(loaded)] == [3] * len(kept)
    assert loaded.channels == model.channels
    # Nothing but the count differs: transformers loads it too, by the names that its files have.
    names = model.anatomy.family.in_files
    tensors = load_file(tmp_path / "cut" / WEIGHTS)
    for theirs, ours in names.items():
        tensors = {name.replace(ours, theirs): tensor for name, tensor in tensors.items()}
    save_file(tensors, tmp_path / "cut" / WEIGHTS, metadata={"format": "pt"})
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "cut").eval()
    with torch.no_grad():  # it takes all experts in one product, which may sum in another order
        torch.testing.assert_close(theirs(IDS).logits, got, rtol=0, atol=1e-5)


def test_experts_stacked_in_files_are_described_apart(tmp_path):
    """As transformers keeps them in memory, and writes them where it is asked to."""
    for family in MIXTURES:
        model = make_model(family, tmp_path / family, False)
        theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / family)
        theirs.save_pretrained(tmp_path / f"{family}-stacked", save_original_format=False)
        checkpoint = open_checkpoint(str(tmp_path / f"{family}-stacked"))
        assert any(len(shape) == 3 for shape in checkpoint.shapes.values())
        assert checkpoint.anatomy.blocks == model.anatomy.blocks
        again = import_checkpoint(checkpoint)
        torch.testing.assert_close(answer(again), answer(model), rtol=0, atol=0)


@torch.no_grad()
@pytest.mark.parametrize("family", MIXTURES)
def test_an_experts_score_is_what_it_says_and_turns(family, tmp_path):
    model, batches = make_model(family, tmp_path, False), make_batches(windows=True)
    got = expert_scores(model, batches)
    block = mixtures(model)[-1]
    read = []
    norm = model.module.get_submodule(block.feed_forwards[0].norm)
    handle = norm.register_forward_hook(lambda _m, _a, out: read.append(out.flatten(0, -2)))
    for batch in batches:
        model.module(**as_tensors(batch))
    handle.remove()
    x = torch.cat(read).double()
    logits = x @ model.linear(block.experts.router).weight.double().T
    for number, score in enumerate(got[-1]):
        expert = model.module.get_submodule(f"{block.experts.path}.{number}")
        total = 0.0
        for row, choice in zip(x, logits, strict=True):
            best = choice.argsort(descending=True)[:2]
            if number not in best:
                continue
            weight = choice.softmax(-1)[number]
            if family != "qwen2_moe":  # whose weights do not sum to 1
                weight = weight / choice.softmax(-1)[best].sum()
            y = expert(row.float()[None])[0].double()
            turned = 1 - functional.cosine_similarity(row, row + y, dim=0)
            total += float(weight * y.norm() * turned)
        assert float(score) == pytest.approx(total / len(x), rel=1e-4)


def test_the_lowest_experts_go_and_a_token_finds_enough(tmp_path):
    model = make_model("mixtral", tmp_path, False)
    scores = [torch.tensor([3.0, 1.0, 2.0, 0.0]), torch.tensor([0.0, 1.0, 2.0, 3.0])]
    with pytest.raises(UserError, match=r"1 of 4 experts would be left.*given to 2"):
        drop_experts(model, scores, 0.75)
    with pytest.raises(UserError, match="equally many"):
        keep_experts(model, [[0, 1], [0, 1, 2]])
    assert drop_experts(model, scores, 0.5) == [[0, 2], [2, 3]]
    dense = make_model("llama", tmp_path / "llama", False)
    with pytest.raises(UserError, match="this model has none"):
        expert_scores(dense, [])


@pytest.mark.parametrize("family", MIXTURES)
def test_whole_layers_leave_mixtures(family, tmp_path):
    model = make_model(family, tmp_path / "hf", False, layers=3)
    expected = passing_by(model, [1], {"input_ids": IDS})
    keep_layers(model, [0, 2])
    torch.testing.assert_close(answer(model), expected, rtol=0, atol=1e-5)
    loaded = again(model, tmp_path / "cut")
    torch.testing.assert_close(answer(loaded), expected, rtol=0, atol=1e-5)
    assert loaded.channels == model.channels
    assert len(loaded.channels) == len(loaded.anatomy.feed_forwards)


def test_what_does_not_take_mixtures_says_so(tmp_path):
    model = make_model("mixtral", tmp_path / "hf", False)
    with pytest.raises(UserError, match=r"layers\.0 is a mixture of 4 experts"):
        input_groups(model.anatomy.blocks[0])
    settings = TextSettings(data=str(text_file(tmp_path / "text.txt")))
    text = open_text(settings, "windows", 0)
    refused = {
        "prune": {},
        "sparsify": {"pattern": "4x16"},
        "quantize": {"weights": "int4", "method": "gptq"},
    }
    for stage, settings in refused.items():
        recipe = validate({stage: settings, "cut": {}}, "here")
        with pytest.raises(UserError, match=f"the {stage} stage does not take"):
            check(recipe, build_of(recipe, open_checkpoint(str(tmp_path / "hf")), text).context)
