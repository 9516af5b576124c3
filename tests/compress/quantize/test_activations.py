"""Static activations: ranges against numpy, the lowered graph against torch's own rounding."""

import numpy as np
import pytest
import torch
from rounded_graphs import following, run_with_codes
from tiny_models import make_batch, make_model

from edgeprune.compress.quantize.activations import choose_range, input_codes
from edgeprune.compress.quantize.model import Quantized, quantize_model
from edgeprune.compress.quantize.settings import QuantizeSettings
from edgeprune.export.graph import Graph
from edgeprune.export.rewrite.run import rewrite
from edgeprune.export.trace import export_onnx
from edgeprune.targets import find

torch.set_num_threads(1)
VNNI = find("x86-avx512-vnni")


def test_percentiles_are_those_of_the_values():
    torch.manual_seed(0)
    values = torch.cat([torch.randn(200_000), torch.tensor([-60.0, 90.0])])
    counts = torch.histc(values, 4096, -60.0, 90.0)
    low, high = choose_range(counts, -60.0, 90.0, "percentile")
    wanted = np.quantile(values.numpy(), [1e-4, 1 - 1e-4])
    np.testing.assert_allclose([low, high], wanted, atol=2 * 150 / 4096)
    assert choose_range(counts, -60.0, 90.0, "minmax") == (-60.0, 90.0)


def test_the_least_squares_range_is_the_best_of_the_shares():
    torch.manual_seed(0)
    values = torch.distributions.Laplace(0.0, 1.0).sample((100_000,))
    low, high = float(values.min()), float(values.max())
    counts = torch.histc(values, 2048, low, high)
    found = choose_range(counts, low, high, "mse")

    def error(share):
        scale, zero = input_codes(share * low, share * high)
        rounded = torch.fake_quantize_per_tensor_affine(values, scale, zero, 0, 255)
        return float((rounded - values).square().mean())

    share = found[1] / high
    assert found[0] == pytest.approx(share * low)
    assert error(share) < error(1.0)
    assert error(share) < 1.02 * min(error(0.01 * step) for step in range(20, 101))


@pytest.mark.parametrize("low", [-3.0, 0.0])
def test_codes_span_the_range_and_hold_zero(low):
    scale, zero = input_codes(low, 5.0)
    values = (torch.tensor([0, 255]) - zero) * scale
    assert 0 <= zero <= 255
    assert values[0] == pytest.approx(low, abs=scale)
    assert values[1] == pytest.approx(5.0, abs=scale)
    assert input_codes(0.0, 0.0) == (1.0, 0)


@pytest.mark.parametrize(
    ("family", "how"), [("bert", "minmax"), ("llama", "percentile"), ("distilbert", "mse")]
)
def test_the_graph_rounds_as_torch_does(family, how, tmp_path):
    model = make_model(family, tmp_path / "hf")
    batches = [make_batch(8, 24, seed) for seed in range(3)]
    options = QuantizeSettings(
        activations="static", activation_range=how, massive_activations="none"
    )
    result = quantize_model(model, batches, options, VNNI)
    result.save(tmp_path / "q")
    assert Quantized.load(tmp_path / "q").plan == result.plan
    assert all(entry.input_scale for entry in result.plan if entry.format == "int8")
    raw, path = export_onnx(model, tmp_path), tmp_path / "out.onnx"
    batch = make_batch(1, 12, seed=9)
    feeds = [{name: value.numpy() for name, value in batch.items()}]
    reports = rewrite(raw, path, model.anatomy, result, feeds, VNNI)
    undone = {report.name for report in reports if not report.kept}
    assert undone <= {"fuse attention"}  # which takes no heads as small as these
    graph = Graph.load(path)
    assert not [node for node in graph.nodes if node.op_type == "DynamicQuantizeLinear"]
    got, coded = run_with_codes(path, feeds[0])
    oracle = following(model, batch, result, coded)
    np.testing.assert_allclose(got, oracle, rtol=0, atol=1e-5 * np.abs(oracle).max())
