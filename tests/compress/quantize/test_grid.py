"""Schemes by their table; grids against every code, every share of the range and least squares."""

import numpy as np
import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st

from edgeprune.compress.quantize.grid import Grid, check_finite, fit_grid, rounding_errors
from edgeprune.compress.quantize.scheme import Scheme

SCHEMES = [Scheme(), Scheme(4, 16), Scheme(4, 32, False), Scheme(8, 16), Scheme(8, 8, False)]
WEIGHTS = [
    [0.5, -1.0, 0.25, 0.75],
    [0.3, 0.9, 0.1, 0.6],
    [-0.3, -0.9, -0.1, -0.6],
    [0.0, 0.0, 0.0, 0.0],
    [0.7, -0.7, 0.2, 0.1],
    [1e-3, -40.0, 3.0, 25.0],
]


@pytest.mark.parametrize(
    ("scheme", "lowest", "highest", "middle"),
    [
        (Scheme(), -127, 127, 0),
        (Scheme(4), -7, 7, 0),
        (Scheme(4, 16), 0, 15, 8),
        (Scheme(8, 16, False), 0, 255, 128),
        (Scheme(2, 8), 0, 3, 2),
    ],
)
def test_which_codes_there_are(scheme, lowest, highest, middle):
    assert (scheme.lowest, scheme.highest, scheme.middle) == (lowest, highest, middle)


@pytest.mark.parametrize(
    ("scheme", "columns", "a_row"),
    [
        (Scheme(8), 30, 30 + 4),
        (Scheme(4, 16), 32, 2 * (8 + 4)),
        (Scheme(4, 16), 33, 3 * (8 + 4)),  # a short last group is filled up
        (Scheme(8, 16), 32, 2 * (16 + 4)),
        (Scheme(4, 16, False), 32, 2 * (8 + 4) + 1),  # two zero points share a byte
        (Scheme(4, 16, False), 33, 3 * (8 + 4) + 2),
        (Scheme(8, 16, False), 33, 3 * (16 + 4) + 3),
        (Scheme(2, 8, False), 64, 8 * (2 + 4) + 2),
        (Scheme(2, 8, False), 72, 9 * (2 + 4) + 3),
    ],
)
def test_bytes_of_a_matrix(scheme, columns, a_row):
    assert scheme.bytes(5, columns) == 5 * a_row
    assert type(scheme.bytes(5, columns)) is int


def test_a_scheme_is_int8_of_rows_unless_it_says_otherwise():
    assert (Scheme().bits, Scheme().group, Scheme().symmetric) == (8, None, True)
    assert Scheme().bytes(2, 3) == 2 * (3 + 4)


@given(st.sampled_from(SCHEMES), st.integers(0, 999))
def test_the_nearest_code_is_the_nearest_of_all(scheme, seed):
    rng = np.random.default_rng(seed)
    weight = torch.from_numpy(rng.normal(0, 1, (3, 5))).float()
    scales = torch.tensor([0.01, -0.3, 0.07])
    middle = float(scheme.middle) if scheme.symmetric else 3.0
    grid = Grid(scales, torch.full((3,), middle), scheme)
    codes = np.arange(scheme.lowest, scheme.highest + 1)
    for row in range(3):
        values = (codes - middle) * float(scales[row])
        near = np.abs(values[None] - weight[row].numpy()[:, None]).min(1)
        found = np.abs((grid.nearest(weight)[row] - weight[row]).numpy())
        np.testing.assert_allclose(found, near, atol=1e-6)
    assert torch.equal(grid.values(grid.codes(weight)), grid.nearest(weight))
    assert grid.values(grid.codes(weight).to(torch.int8)).dtype == torch.float32


def expected_grid(row: list[float], scheme: Scheme, share: float = 1.0) -> tuple[float, float]:
    """(scale, zero point) by the rules, for one row."""
    if not scheme.symmetric:
        bottom, top = min(0.0, *row) * share, max(0.0, *row) * share
        scale = (top - bottom) / (2**scheme.bits - 1) or 1.0
        return scale, min(max(round(-bottom / scale), 0), 2**scheme.bits - 1)
    largest = max(row, key=abs) * share
    if scheme.group is None:
        return abs(largest) / (2 ** (scheme.bits - 1) - 1) or 1.0, 0
    # The largest weight takes the code 0, which lies furthest from the middle.
    return -largest / 2 ** (scheme.bits - 1) or 1.0, 2 ** (scheme.bits - 1)


@pytest.mark.parametrize("scheme", SCHEMES, ids=str)
def test_the_whole_range_of_each_row(scheme):
    grid = fit_grid(torch.tensor(WEIGHTS).double(), scheme)
    assert grid.scales.dtype == torch.float32
    assert grid.scheme == scheme
    for row, scale, zero in zip(WEIGHTS, grid.scales, grid.zero_points, strict=True):
        wanted, place = expected_grid(row, scheme)
        # Of two weights as far from zero, one below and one above, either may be the largest.
        tie = scheme.group is not None and scheme.symmetric and -min(row) == max(row)
        assert abs(float(scale)) == pytest.approx(abs(wanted), rel=1e-5)
        assert tie or float(scale) == pytest.approx(wanted, rel=1e-5)
        assert float(zero) == place


@given(st.sampled_from(SCHEMES), st.integers(0, 999))
def test_zero_stays_zero_and_errors_stay_within_half_a_step(scheme, seed):
    rng = np.random.default_rng(seed)
    weight = torch.from_numpy(rng.normal(rng.normal(), 1, (4, 9))).float()
    weight[:, 0] = 0
    for clip in ("absmax", "mse"):
        assert not fit_grid(weight, scheme, clip).nearest(weight)[:, 0].any()
    grid = fit_grid(weight, scheme)
    error = (grid.nearest(weight) - weight).abs().amax(1)
    # A code that lacks on one side, or a zero point that is rounded: half a step more.
    steps = 1.0 if scheme.group is not None else 0.5
    assert (error <= (steps + 1e-4) * grid.scales.abs()).all()


def squared(weight: torch.Tensor, grid: Grid) -> np.ndarray:
    return (grid.nearest(weight) - weight).square().sum(1).numpy()


@given(st.sampled_from(SCHEMES), st.integers(0, 999))
def test_the_clipped_range_is_the_best_of_26_refitted(scheme, seed):
    """No row is worse than at any share of its range, nor than at that one's least squares."""
    rng = np.random.default_rng(seed)
    weight = torch.from_numpy(rng.standard_t(3, (5, 16))).float()
    found = squared(weight, fit_grid(weight, scheme, "mse"))
    best = np.full(5, np.inf)
    for share in np.linspace(1, 0.5, 26):
        pairs = [expected_grid(row, scheme, float(share)) for row in weight.tolist()]
        scales, zeros = (torch.tensor(each).float() for each in zip(*pairs, strict=True))
        grid = Grid(scales, zeros, scheme)
        best = np.minimum(best, squared(weight, grid))
    assert (found <= best * (1 + 1e-4) + 1e-9).all()


def fits(weight: torch.Tensor, grid: Grid, times: int) -> list[Grid]:
    """A grid's scales fitted to its codes, again and again, by numpy's least squares."""
    found = []
    for _ in range(times):
        steps = (grid.codes(weight) - grid.zero_points[:, None]).double().numpy()
        scales = [
            np.linalg.lstsq(step[:, None], row, rcond=None)[0][0]
            for step, row in zip(steps, weight.double().numpy(), strict=True)
        ]
        fitted = torch.tensor(np.array(scales)).float()
        fitted = torch.where(fitted == 0, grid.scales, fitted)
        found.append(grid := Grid(fitted, grid.zero_points, grid.scheme))
    return found


@given(st.sampled_from(SCHEMES), st.integers(0, 999))
@example(Scheme(4, 16), 35)  # where 25 or 27 shares find another grid
def test_a_clipped_grid_is_exactly_the_best_of_what_is_tried(scheme, seed):
    """Shares, then three fits of the best one's scale, and of the zero points beside the whole
    range's: row by row the least squared error, and no less."""
    rng = np.random.default_rng(seed)
    weight = torch.from_numpy(rng.normal(rng.normal(), 1, (3, 12))).float()
    tried = []
    for share in torch.linspace(1.0, 0.5, 26).tolist():
        pairs = [expected_grid(row, scheme, share) for row in weight.tolist()]
        scales, zeros = (torch.tensor(each).float() for each in zip(*pairs, strict=True))
        tried.append(Grid(scales, zeros, scheme))
    errors = np.stack([squared(weight, grid) for grid in tried])
    place = errors.argmin(0)
    best = Grid(
        torch.stack([tried[each].scales[row] for row, each in enumerate(place)]),
        torch.stack([tried[each].zero_points[row] for row, each in enumerate(place)]),
        scheme,
    )
    tried += fits(weight, best, 3)
    if not scheme.symmetric:
        bottom, top = weight.amin(1).clamp(max=0), weight.amax(1).clamp(min=0)
        for shift in (-1, 0, 1):
            zeros = (tried[0].zero_points + shift).clamp(1, scheme.highest - 1)
            scales = torch.maximum(-bottom / zeros, top / (scheme.highest - zeros))
            tried += fits(weight, Grid(scales, zeros, scheme), 3)
    errors = np.stack([squared(weight, grid) for grid in tried])
    found = squared(weight, fit_grid(weight, scheme, "mse"))
    np.testing.assert_allclose(found, errors.min(0), rtol=2e-3, atol=1e-9)


@pytest.mark.parametrize("scheme", SCHEMES, ids=str)
@pytest.mark.parametrize("clip", ["absmax", "mse"])
def test_rows_of_zeros_and_of_one_sign_have_a_grid(scheme, clip):
    for weight in (torch.zeros(2, 4), torch.full((2, 4), 0.5), torch.full((2, 4), -0.5)):
        grid = fit_grid(weight, scheme, clip)
        assert torch.isfinite(grid.scales).all()
        assert (grid.scales != 0).all()
        torch.testing.assert_close(grid.nearest(weight), weight, rtol=2e-2, atol=0)
    assert fit_grid(torch.zeros(1, 4), scheme, clip).scales.tolist() == [1.0]


def test_errors_of_rounding():
    weight, rounded = torch.tensor([[3.0, 4.0]]), torch.tensor([[3.0, 2.0]])
    assert rounding_errors(weight, rounded) == (2.0, pytest.approx(2 / 5))
    assert rounding_errors(weight * 0, rounded) == (3.0, 0.0)
    assert rounding_errors(weight * 0.1, rounded * 0.1)[1] == pytest.approx(2 / 5)
    assert rounding_errors(torch.zeros(0, 4), torch.zeros(0, 4)) == (0.0, 0.0)


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
def test_what_has_no_nearest_code_is_refused(value):
    check_finite(torch.ones(2))
    with pytest.raises(ValueError, match="NaN or infinite"):
        check_finite(torch.tensor([1.0, value]))
