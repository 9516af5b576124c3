"""Training through rounding: what is learned is what is stored."""

import json
import math

import pytest
import torch
import yaml
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_builds import RECIPE, model_folder, recipe_file, text_file
from tiny_models import make_batch, make_model

from edgeprune.cli import main
from edgeprune.compress.quantize.layers import round_nearest
from edgeprune.compress.quantize.plan import plan_formats
from edgeprune.compress.quantize.rounding import reads_rounded
from edgeprune.compress.quantize.scheme import Scheme
from edgeprune.compress.quantize.settings import QuantizeSettings
from edgeprune.compress.quantize.through import CLIP, rounded, rounded_linears

torch.set_num_threads(1)
SCHEMES = [Scheme(8), Scheme(7), Scheme(4, 32), Scheme(4, 16), Scheme(8, 32)]


def drawn(rows: int, columns: int, seed: int) -> torch.Tensor:
    return torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed))


def clips(weight: torch.Tensor, scheme: Scheme, seed: int) -> torch.Tensor:
    rows, columns = weight.shape
    count = rows * math.ceil(columns / (scheme.group or columns))
    return torch.rand(count, generator=torch.Generator().manual_seed(seed)) * 0.7 + 0.3


@given(
    scheme=st.sampled_from(SCHEMES),
    rows=st.integers(1, 4),
    columns=st.integers(1, 70),
    seed=st.integers(0, 999),
)
@settings(max_examples=80, deadline=None)
def test_what_is_learned_is_rounded_to_itself(scheme, rows, columns, seed):
    """Whatever the clip: the same codes, and the same scales but for a float's rounding."""
    weight = drawn(rows, columns, seed)
    learned = rounded(weight, clips(weight, scheme, seed), scheme)
    again = round_nearest(learned, scheme)
    assert torch.allclose(again.dequantize(), learned, rtol=1e-6, atol=0)
    whole = torch.ones_like(clips(weight, scheme, seed))
    assert torch.equal(rounded(weight, whole, scheme), round_nearest(weight, scheme).dequantize())


@pytest.mark.parametrize("scheme", SCHEMES)
def test_gradients_are_those_of_a_trained_step_size(scheme):
    """Of the weight: 1 within the range, 0 beyond it. Of the scale: the code less its step within
    it, the code beyond (LSQ, equation 3), times the whole range's scale for the clip."""
    weight = drawn(3, 64, 0).requires_grad_()
    clip = clips(weight, scheme, 1).requires_grad_()
    rounded(weight, clip, scheme).sum().backward()
    groups = weight.detach().reshape(len(clip), -1)
    top = scheme.highest if scheme.group is None else scheme.middle
    sign = -groups.gather(1, groups.abs().argmax(1, keepdim=True)).sign()
    whole = groups.abs().amax(1, keepdim=True) / top * (1 if scheme.group is None else sign)
    scale = whole * clip.detach()[:, None]
    steps = groups / scale
    lowest, highest = scheme.lowest - scheme.middle, scheme.highest - scheme.middle
    within = (steps >= lowest) & (steps <= highest)
    assert 0 < within.float().mean() < 1
    assert torch.equal(weight.grad.reshape(groups.shape), within.float())
    code = steps.round().clamp(lowest, highest)
    of_scale = torch.where(within, code - steps, code).sum(1, keepdim=True)
    assert torch.allclose(clip.grad, (of_scale * whole).squeeze(1), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("weights", ["int8", "int4"])
def test_a_model_runs_rounded_and_is_left_so(weights, tmp_path):
    model = make_model("bert", tmp_path)
    plan = plan_formats(model.anatomy, QuantizeSettings(weights=weights), 8)
    batch = make_batch()
    names = [name for name, _ in model.module.named_parameters()]
    plain = model.run(batch)[0]
    with rounded_linears(model, plan):
        during = model.run(batch)[0]
        assert any(name.endswith(f".{CLIP}") for name, _ in model.module.named_parameters())
    assert [name for name, _ in model.module.named_parameters()] == names
    assert not torch.equal(during, plain)
    planned = [entry for entry in plan if reads_rounded(entry)]
    assert planned
    for entry in planned:
        weight = model.linear(entry.name).weight.detach()
        assert round_nearest(weight, entry.scheme).relative_error < 1e-6


def test_an_error_leaves_the_weights_as_they_were(tmp_path):
    model = make_model("bert", tmp_path)
    before = {name: values.clone() for name, values in model.module.state_dict().items()}
    plan = plan_formats(model.anatomy, QuantizeSettings(), 8)
    with pytest.raises(KeyError), rounded_linears(model, plan):
        raise KeyError
    after = model.module.state_dict()
    assert after.keys() == before.keys()
    assert all(torch.equal(after[name], values) for name, values in before.items())


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("through")
    model_folder(folder / "model")
    text_file(folder / "text.txt")
    return folder


def build(place, quantize, recover=None, output="out", **options):
    content = yaml.safe_load(RECIPE)
    content["recover"] |= {"quantized": True, **(recover or {})}
    content["quantize"] = quantize
    file = recipe_file(place / "recipe.yaml", yaml.safe_dump(content))
    words = ["build", file, "--model", place / "model", "--data", place / "text.txt"]
    return CliRunner().invoke(main, [*map(str, words), "--output", str(place / output)])


def test_a_build_stores_what_it_learned_and_knows_of_what_it_depends(place):
    done = build(place, {"weights": "int4", "calibration_samples": 8})
    assert done.exit_code == 0, done.output
    manifest = json.loads((place / "out" / "bundle" / "edgeprune.json").read_text())
    [quantized] = [each for each in manifest["stages"] if each["name"] == "quantize"]
    linears = {name: each for name, each in quantized["errors"].items() if "embeddings" not in name}
    assert linears
    assert max(each["relative"] for each in linears.values()) < 1e-6
    stages = place / "out" / "stages"
    before = {path.name for path in stages.glob("recover-*")}
    assert build(place, {"weights": "int8", "calibration_samples": 8}).exit_code == 0
    assert before.isdisjoint(path.name for path in stages.glob("recover-*"))


@pytest.mark.parametrize(
    ("quantize", "named"),
    [
        ({"weights": "none"}, "add quantize"),
        ({"weights": "mixed"}, "quantize.weights of int8 or int4 or int8-groups, not mixed"),
        ({"weights": "int4", "method": "hqq"}, "quantize.method of rtn or gptq"),
        ({"weights": "int4", "symmetric": False}, "quantize.symmetric of true"),
        ({"activations": "static"}, "quantize.activations of dynamic or token"),
    ],
)
def test_codes_that_would_be_chosen_anew_are_refused(place, quantize, named):
    done = build(place, quantize, output="refused")
    assert done.exit_code == 2
    assert named in done.output
