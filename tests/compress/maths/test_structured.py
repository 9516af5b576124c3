"""Removal of input units: against least squares on what is kept."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeprune.compress.maths.obs import damped, least_squares
from edgeprune.compress.maths.structured import removal


def _problem(seed: int, units: int, width: int, out: int = 5, tokens: int = 200):
    generator = torch.Generator().manual_seed(seed)
    inputs = units * width
    mix = torch.randn(inputs, inputs, generator=generator, dtype=torch.float64)
    read = torch.randn(tokens, inputs, generator=generator, dtype=torch.float64) @ mix
    weight = torch.randn(out, inputs, generator=generator, dtype=torch.float64)
    shuffled = torch.randperm(inputs, generator=generator).view(units, width)
    return weight, damped(read.T @ read, 1e-4), shuffled


def _error(weight, hessian, kept):
    """The damped squared error of the best weights on the kept inputs."""
    change = weight.clone()
    change[:, kept] -= least_squares(weight, hessian, kept)
    return float(((change @ hessian) * change).sum())


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    units=st.integers(2, 9),
    width=st.integers(1, 3),
    together=st.integers(1, 4),
)
def test_costs_are_least_squares_on_what_is_left(seed, units, width, together):
    weight, hessian, columns = _problem(seed, units, width)
    found = removal(weight, hessian, columns, together=together)
    assert sorted(found.order.tolist()) != list(range(units))  # one is left
    assert len(found.costs) == units
    assert found.costs[0] == 0
    assert bool((found.costs.diff() >= 0).all())
    for gone in range(0, units, together):
        kept = torch.ones(weight.shape[1], dtype=torch.bool)
        kept[columns[found.order[:gone]].flatten()] = False
        exact = _error(weight, hessian, kept)
        assert abs(float(found.costs[gone]) - exact) <= 1e-7 * max(1.0, float(found.costs[-1]))


@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 10_000), width=st.integers(1, 3))
def test_the_first_to_go_is_the_cheapest_of_all(seed, width):
    weight, hessian, columns = _problem(seed, 6, width)
    found = removal(weight, hessian, columns, keep=5)
    alone = []
    for unit in columns:
        kept = torch.ones(weight.shape[1], dtype=torch.bool)
        kept[unit] = False
        alone.append(_error(weight, hessian, kept))
    assert found.order.tolist() == [min(range(6), key=alone.__getitem__)]


def test_units_that_repeat_others_cost_nothing():
    generator = torch.Generator().manual_seed(0)
    read = torch.randn(300, 4, generator=generator, dtype=torch.float64)
    read = torch.cat([read, read[:, :2]], 1)
    weight = torch.randn(3, 6, generator=generator, dtype=torch.float64)
    found = removal(weight, damped(read.T @ read, 1e-9), torch.arange(6)[:, None])
    total = float(found.costs[-1])
    assert float(found.costs[2]) < 1e-6 * total < float(found.costs[3])
    assert {u % 4 if u >= 4 else u for u in found.order[:2].tolist()} <= {0, 1}
