"""Compensated cuts beside numpy's least squares, and beside the same cut left alone."""

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_models import make_batch, make_model
from torch import Tensor

from edgeprune.base.errors import UserError
from edgeprune.compress.calibrate.gates import CHANNELS
from edgeprune.compress.calibrate.walk import InputStatistics
from edgeprune.compress.cut.compensate import compensated, cut_channels
from edgeprune.compress.cut.settings import CutSettings
from edgeprune.compress.cut.stage import cut, remove_masked
from edgeprune.model.forward import tensors
from edgeprune.model.model import Model
from edgeprune.model.store import load_model, save_model
from edgeprune.pipeline.recipe import validate
from edgeprune.text.batches import Batch


def batches_of(count: int, seed: int = 0) -> list[Batch]:
    made = [make_batch(rows=12, tokens=20, seed=seed + i) for i in range(count)]
    return [Batch(b["input_ids"].numpy(), b["attention_mask"].numpy()) for b in made]


def outputs(model: Model, batches: list[Batch]) -> Tensor:
    with torch.no_grad():
        return torch.cat(
            [
                model.module(**tensors(batch))[0][torch.from_numpy(batch.attention_mask).bool()]
                for batch in batches
            ]
        )


@pytest.mark.parametrize("weighted", [True, False])
@pytest.mark.parametrize("biased", [True, False])
@given(st.integers(0, 10**6))
@settings(max_examples=50)
def test_a_linear_is_refitted_as_numpy_does(biased, weighted, seed):
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((200, 9)) @ rng.standard_normal((9, 9)) + 2 * rng.standard_normal(9)
    weight, bias = rng.standard_normal((5, 9)), rng.standard_normal(5)
    kept = rng.permutation(9) < 6
    inputs = InputStatistics(torch.zeros(9, 9), torch.zeros(9))
    counts = rng.exponential(size=200).astype(np.float32) if weighted else np.ones(200)
    for part, many in zip(np.array_split(x, 3), np.array_split(counts, 3), strict=True):
        inputs.add(torch.from_numpy(part), torch.from_numpy(many) if weighted else None)
    inputs.complete()
    found, shift = compensated(
        torch.from_numpy(weight),
        torch.from_numpy(bias) if biased else None,
        inputs,
        torch.from_numpy(kept),
        damping=1e-12,
    )
    one = np.ones((200, 1)) if biased else np.empty((200, 0))
    target = x @ weight.T + (bias if biased else 0)
    root = np.sqrt(counts)[:, None]
    columns = np.hstack([x[:, kept], one])
    expected = np.linalg.lstsq(root * columns, root * target, rcond=None)[0]
    scale = np.abs(expected).max()  # sums are in float32
    np.testing.assert_allclose(found.numpy(), expected[:6].T, rtol=1e-2, atol=1e-2 * scale)
    assert (shift is None) == (not biased)
    if shift is not None:
        np.testing.assert_allclose(shift.numpy(), expected[6], rtol=1e-2, atol=1e-2 * scale)


@pytest.mark.parametrize("family", ["bert", "distilbert", "llama", "llama-biased"])
def test_the_cut_model_is_nearer_on_text_that_it_did_not_see(family, tmp_path):
    original = make_model(family, tmp_path)
    seen, unseen = batches_of(8), batches_of(3, seed=100)
    expected = outputs(original, unseen)
    generator = torch.Generator().manual_seed(0)
    kept = [torch.rand(size, generator=generator) < 0.75 for size in (40, 23)]
    errors = []
    for compensate in (False, True):
        model = make_model(family, tmp_path)
        if compensate:
            cut_channels(model, kept, seen, 0.01)
        else:
            remove_masked(model, CHANNELS, kept)
        assert [len(layer) for layer in model.channels] == [int(mask.sum()) for mask in kept]
        errors.append(float((outputs(model, unseen) - expected).square().mean()))
    assert errors[1] < 0.9 * errors[0]


MASSIVE = 7
"""A token that excites channel 0 beyond all measure; it is silent at all others."""


def massive(folder: Path) -> Model:
    model = make_model("bert", folder, unequal=False, layers=1)
    part = model.anatomy.blocks[0].feed_forward
    words = model.module.get_submodule(model.anatomy.embeddings["word"]).weight.data
    words[MASSIVE] = 0
    words[MASSIVE, :2] = torch.tensor([30.0, -30.0])  # what the norms leave of it is this alone
    up = model.linear(part.up)
    up.weight.data[0] = 0
    up.weight.data[0, :2] = torch.tensor([60.0, -60.0])
    up.bias.data[0] = -300
    model.linear(part.down).weight.data[:, 0] *= 100
    return model


def test_a_massive_activation_does_not_spoil_the_other_tokens(tmp_path):
    """Its channel leaves with three others; counted alike, all tokens would make up for one."""
    seen, unseen = batches_of(8), batches_of(3, seed=100)
    expected = outputs(massive(tmp_path), unseen)
    others = torch.cat([torch.from_numpy(b.input_ids[b.attention_mask == 1]) for b in unseen])
    others = others != MASSIVE
    assert 0 < int((~others).sum()) < 0.1 * len(others)
    kept = [torch.arange(40) > 3]
    errors = []
    for compensate in (False, True):
        model = massive(tmp_path)
        if compensate:
            cut_channels(model, kept, seen, 0.01)
        else:
            remove_masked(model, CHANNELS, kept)
        errors.append(float((outputs(model, unseen) - expected)[others].square().mean()))
    assert errors[1] < 0.9 * errors[0]


def test_what_was_cut_loads_again_as_it_was(tmp_path):
    model = make_model("llama", tmp_path / "in")
    chosen = CutSettings(channels=0.3, compensate=True, policy="uniform")
    cut(model, CHANNELS, [torch.rand(40), torch.rand(23)], 0.3, chosen, batches_of(3))
    assert sum(len(layer) for layer in model.channels) == 63 - round(0.3 * 63)
    save_model(model, tmp_path / "out")
    text = batches_of(1, seed=50)
    assert torch.equal(outputs(load_model(tmp_path / "out"), text), outputs(model, text))


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ({"cut": {"compensate": True}}, "give `channels` too"),
        (
            {"cut": {"channels": 0.1, "compensate": True}, "prune": {"pattern": "4x1"}},
            "would fill the weights",
        ),
    ],
)
def test_compensation_that_cannot_be_is_refused(content, words):
    with pytest.raises(UserError, match=words):
        validate(content, "here")
