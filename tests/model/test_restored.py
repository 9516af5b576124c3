"""Whatever changes a model for a while leaves it as it was, at whatever pass it fails."""

from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pytest
import torch
from tiny_models import make_batch, make_model

from edgeprune.compress.calibrate.curvature import fisher, kfac
from edgeprune.compress.calibrate.gates import CHANNELS, HEADS
from edgeprune.compress.calibrate.walk import Walk
from edgeprune.compress.cut.block_search import search_blocks
from edgeprune.compress.cut.collect import unit_scores
from edgeprune.compress.cut.depth import layer_scores
from edgeprune.compress.levels.settings import Evolution
from edgeprune.compress.prune.absorption import amplification
from edgeprune.compress.prune.allocate import uniform_counts
from edgeprune.compress.prune.level_search import search_levels
from edgeprune.compress.prune.search_settings import SearchSettings
from edgeprune.compress.quantize.sensitivity import fisher_costs, measured_costs
from edgeprune.model.forward import tensors
from edgeprune.model.model import Model
from edgeprune.text.batches import Batch


class Stop(Exception):
    """What goes wrong."""


def batches_of(count: int) -> list[Batch]:
    made = [make_batch(rows=2, tokens=40, seed=seed) for seed in range(count)]
    return [Batch(b["input_ids"].numpy(), b["attention_mask"].numpy()) for b in made]


def replaced(costs: Callable[..., Any]) -> Callable[[Model], Any]:
    def run(model: Model) -> Any:
        names = list(model.anatomy.block_linears())[:2]
        formats = {name: {"zero": torch.zeros_like(model.linear(name).weight)} for name in names}
        return costs(model, formats, [tensors(batch) for batch in batches_of(2)], 0)

    return run


def followed(model: Model) -> Any:
    counts = uniform_counts(model, "weights", 0.5)
    return amplification(model, Walk(model, batches_of(2)), counts, "weights")


def searched(model: Model) -> Any:
    settings = SearchSettings(evaluations=4, offspring=2, texts=1, step=0.2, max_level=1)
    return search_levels(model, model, batches_of(1), batches_of(1), settings, 0)


def dropped(model: Model) -> Any:
    settings = Evolution(evaluations=4, offspring=2, texts=1)
    return search_blocks(model, model, 1, batches_of(1), batches_of(1), settings, 0)


USES: dict[str, Callable[[Model], Any]] = {
    "measured costs": replaced(measured_costs),
    "predicted costs": replaced(fisher_costs),
    "amplification": followed,
    "levels": searched,
    "blocks": dropped,
    "fisher": lambda model: fisher(model, batches_of(2), 0),
    "kfac": lambda model: kfac(model, batches_of(2), 0),
    **{
        f"layers by {score}": lambda model, score=score: layer_scores(
            model, batches_of(2), score, 0
        )
        for score in ("loss", "taylor", "linearity")
    },
    **{
        f"units by {score}": lambda model, score=score: unit_scores(
            model, batches_of(2), [CHANNELS, HEADS], score, 0
        )
        for score in ("fisher", "flap")
    },
}


def state(model: Model) -> dict[str, Any]:
    """All that a use could leave behind."""
    parts = dict(model.module.named_modules())
    return {
        "values": {name: p.detach().clone() for name, p in model.module.named_parameters()},
        "asks": [p.requires_grad for p in model.module.parameters()],
        "gradients": [p.grad for p in model.module.parameters()],
        "modules": {name: id(part) for name, part in parts.items() if name.rpartition(".")[2]},
        "hooks": [len(p._forward_hooks) + len(p._forward_pre_hooks) for p in parts.values()],
        "forwards": [vars(part).get("forward") for part in parts.values()],
    }


@pytest.mark.parametrize("use", USES)
def test_a_model_is_as_before_wherever_a_pass_fails(use, tmp_path):
    model = make_model("bert", tmp_path, unequal=False)
    asked = [number % 3 > 0 for number, _ in enumerate(model.module.parameters())]
    for parameter, wanted in zip(model.module.parameters(), asked, strict=True):
        parameter.requires_grad_(wanted)
    fails_at, passes = 0, 0

    def count(_module: Any, _args: Any) -> None:
        nonlocal passes
        passes += 1
        if passes == fails_at:
            raise Stop

    model.linear(model.anatomy.blocks[1].attention.value).register_forward_pre_hook(count)
    before = state(model)
    while True:
        fails_at, passes = fails_at + 1, 0
        with suppress(Stop):
            USES[use](model)
        after = state(model)
        values = after.pop("values"), before["values"]
        assert all(torch.equal(values[0][name], values[1][name]) for name in values[1])
        assert after == {key: part for key, part in before.items() if key != "values"}
        if passes < fails_at:
            break
    assert fails_at > 2
