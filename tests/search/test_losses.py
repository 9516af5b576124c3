"""Losses of levels against models that are really cut, and of layers against models without."""

import functools

import pytest
import torch
from calibration_batches import batches_of
from tiny_models import make_model

from edgeprune.base.errors import UserError
from edgeprune.compress.calibrate.walk import Walk
from edgeprune.compress.cut.compensate import cut_channels, hessian_of, norm_weights
from edgeprune.compress.cut.depth import references
from edgeprune.compress.cut.surgery import keep_layers
from edgeprune.compress.maths.structured import removal
from edgeprune.search.blocks import blocks_of
from edgeprune.search.levels import lost, measure_losses
from edgeprune.search.losses import Losses

STATISTICS, JUDGED = batches_of(3), batches_of(2, seed=50)


@pytest.fixture(scope="module", params=["bert", "llama"])
def measured(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp(request.param)

    def made(unequal=False):
        return make_model(request.param, folder, unequal=unequal)

    before = made()
    state = {name: tensor.clone() for name, tensor in before.module.state_dict().items()}
    losses = measure_losses(before, blocks_of(before, STATISTICS), JUDGED)
    after = before.module.state_dict()
    assert all(torch.equal(state[name], after[name]) for name in state)  # it is left as it was
    return made, losses


def test_the_loss_of_a_level_of_channels_is_that_of_the_model_cut_so(measured):
    made, losses = measured
    model, curve = made(), losses.channels[0]
    whole, block = references(model, JUDGED), model.anatomy.blocks[0]
    down = model.linear(block.feed_forward.down)
    weigh = functools.partial(norm_weights, down.weight, down.bias)
    seen = Walk(model, STATISTICS).inputs(block, block.feed_forward.down, weigh)
    columns = torch.arange(curve.units)[:, None]
    order = removal(down.weight, hessian_of(seen, down.bias is not None, 0.01), columns).order
    for level in curve.measured:
        kept, expected = level.kept, level.loss
        one = made()
        masks = [torch.ones(part.channels) for part in one.anatomy.feed_forwards]
        masks[0][order[: curve.units - kept]] = 0
        cut_channels(one, masks, STATISTICS, 0.01)
        assert len(one.channels[0]) == kept
        assert lost(one, JUDGED, whole) == pytest.approx(expected, rel=1e-3, abs=1e-6)


def test_a_set_of_layers_loses_what_the_model_without_the_others_does(measured):
    made, losses = measured
    model = made()
    whole = references(model, JUDGED)
    for each in losses.layers[1:]:
        one = made()
        keep_layers(one, each.kept)
        assert lost(one, JUDGED, whole) == pytest.approx(each.loss, rel=1e-4)
    assert losses.layers[0].loss == 0
    assert {len(each.kept) for each in losses.layers} == {1, 2}


def test_heads_that_share_keys_leave_together(measured):
    made, losses = measured
    model = made()
    part = model.anatomy.attentions[0]
    shared = model.anatomy.shared_key_value_heads
    for curve in losses.heads:
        assert curve.step == (part.num_key_value_heads if shared else 1)
        assert curve.units == part.num_heads
        assert all(kept % curve.step == 0 for kept in curve.kept)


def test_losses_are_read_as_they_were_written(measured, tmp_path):
    _, losses = measured
    losses.write(tmp_path / "losses.json")
    assert Losses.read(tmp_path / "losses.json", "") == losses


def test_a_damaged_file_of_losses_is_named(measured, tmp_path):
    _, losses = measured
    losses.write(tmp_path / "losses.json")
    text = (tmp_path / "losses.json").read_text()
    (tmp_path / "losses.json").write_text(text.replace('"step": ', '"step": "many" or '))
    with pytest.raises(UserError, match=r"losses\.json"):
        Losses.read(tmp_path / "losses.json", "delete it")
