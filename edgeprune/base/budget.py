"""Exact budgets: a whole number of units shared between layers, none lost or added.

Every method that decides how much each layer keeps or gives up uses one of these two
functions, so that "50 %" is exactly round(0.5 N) everywhere. Our own derivations.
"""

import math
from collections.abc import Sequence
from fractions import Fraction

from edgeprune.base.errors import UserError


def apportion(
    total: int,
    weights: Sequence[float],
    upper: Sequence[int] | None = None,
    lower: Sequence[int] | None = None,
) -> list[int]:
    """Share `total` units in proportion to `weights`: whole numbers whose sum is `total`.

    The real-valued share of i is clip(theta * weights[i], lower[i], upper[i]) with the one theta
    at which the shares sum to `total`; what a bound cuts off is thereby spilled over the others
    in proportion. Shares are rounded down and the rest goes to the largest remainders (the
    earlier entry wins a tie), which never crosses a bound. Entries of weight zero get more than
    their lower bound only when all others are full, and then equally. Exact rational arithmetic.

    weights: finite and not negative, one per entry. upper, lower: bounds in units (default: no
    upper bound, 0). Raises UserError when the bounds cannot hold `total`.

    >>> apportion(10, [1, 1, 1])
    [4, 3, 3]
    >>> apportion(10, [8, 1, 1], upper=[4, 9, 9])
    [4, 3, 3]
    """
    count = len(weights)
    low = [0] * count if lower is None else [int(value) for value in lower]
    high = [max(total, bottom) for bottom in low] if upper is None else [int(u) for u in upper]
    if len(low) != count or len(high) != count:
        raise ValueError("weights, upper and lower need one entry each per layer")
    if not all(math.isfinite(weight) and weight >= 0 for weight in weights):
        raise ValueError("weights must be finite and not negative")
    _check_bounds(total, low, high)

    if count and not any(weights):
        shares = _fill(total, [Fraction(1)] * count, low, high)
    else:
        exact = [Fraction(float(weight)) for weight in weights]
        full = sum(
            top if weight else bottom for weight, bottom, top in zip(exact, low, high, strict=True)
        )
        if total <= full:
            shares = _fill(total, exact, low, high)
        else:  # every weighted entry is full: the others share what is left
            low = [
                top if weight else bottom
                for weight, bottom, top in zip(exact, low, high, strict=True)
            ]
            shares = _fill(total, [Fraction(weight == 0) for weight in exact], low, high)
    counts = [math.floor(share) for share in shares]
    return _hand_out(
        total - sum(counts),
        counts,
        [s - c for s, c in zip(shares, counts, strict=True)],
        high,
    )


def most_removable(units: int, limit: float, sparsity: float) -> int:
    """Units that may leave a layer: the share `limit` of them, but no less than `sparsity` of the
    layer, so that all layers together can reach it."""
    return max(math.floor(limit * units + 1e-9), math.ceil(sparsity * units - 1e-9))


def project(
    keep_ratios: Sequence[float],
    sizes: Sequence[int],
    total: int,
    minimum: int = 1,
) -> list[int]:
    """Turn desired keep ratios into kept counts that sum to `total`.

    One additive constant mu moves all ratios: the largest mu with
    sum(round_down(sizes[i] * (keep_ratios[i] + mu), clipped to the bounds)) <= total is found by
    bisection, and the rest goes to the largest fractional parts (the earlier layer wins a tie).

    keep_ratios: desired share kept per layer (any finite number). sizes: units per layer.
    total: units kept in all. minimum: units that each layer keeps.
    Raises UserError when `total` is out of reach.

    >>> project([0.5, 0.75, 0.25], [100, 100, 100], total=120)
    [40, 65, 15]
    """
    low, high = [minimum] * len(sizes), list(sizes)
    if len(keep_ratios) != len(sizes):
        raise ValueError("keep_ratios and sizes need one entry each per layer")
    if not all(math.isfinite(ratio) for ratio in keep_ratios):
        raise ValueError("keep_ratios must be finite")
    _check_bounds(total, low, high)
    if not sizes:
        return []

    def desired(mu: float) -> list[float]:
        return [
            min(max(size * (ratio + mu), bottom), top)
            for ratio, size, bottom, top in zip(keep_ratios, sizes, low, high, strict=True)
        ]

    def rounded(mu: float) -> list[int]:
        return [math.floor(value) for value in desired(mu)]

    left, right = -1.0 - max(keep_ratios), 1.0 - min(keep_ratios) + 1.0 / max(1, min(sizes))
    if sum(rounded(right)) <= total:
        left = right
    for _ in range(200):  # more than the bits of a float: left and right end as neighbours
        middle = (left + right) / 2
        if sum(rounded(middle)) <= total:
            left = middle
        else:
            right = middle
    counts = rounded(left)
    fractions = [Fraction(w) - c for w, c in zip(desired(left), counts, strict=True)]
    return _hand_out(total - sum(counts), counts, fractions, high)


def _check_bounds(total: int, low: list[int], high: list[int]) -> None:
    for index, (bottom, top) in enumerate(zip(low, high, strict=True)):
        if bottom > top:
            raise UserError(
                f"Layer {index} must hold at least {bottom} units and at most {top}: "
                "lower its minimum."
            )
    if not sum(low) <= total <= sum(high):
        raise UserError(
            f"A total of {total} units does not fit bounds that allow {sum(low)} to {sum(high)}: "
            "change the total or the bounds."
        )


def _fill(total: int, weights: list[Fraction], low: list[int], high: list[int]) -> list[Fraction]:
    """clip(theta * weight, low, high) with the theta at which they sum to `total`, exactly."""
    edges = sorted(
        {
            Fraction(bound) / w
            for w, b, t in zip(weights, low, high, strict=True)
            if w
            for bound in (b, t)
        }
    )

    def at(theta: Fraction) -> list[Fraction]:
        return [
            min(max(theta * w, Fraction(b)), Fraction(t))
            for w, b, t in zip(weights, low, high, strict=True)
        ]

    first, last = 0, len(edges) - 1  # the sum is linear in theta between neighbouring edges
    if not edges or sum(at(edges[0])) >= total:
        return at(edges[0] if edges else Fraction(0))
    while last - first > 1:
        middle = (first + last) // 2
        if sum(at(edges[middle])) < total:
            first = middle
        else:
            last = middle
    here, there = sum(at(edges[first])), sum(at(edges[last]))
    theta = edges[first]
    if there > here:
        theta += (total - here) * (edges[last] - edges[first]) / (there - here)
    return at(theta)


def _hand_out(
    rest: int, counts: list[int], fractions: list[Fraction], high: list[int]
) -> list[int]:
    """Give `rest`, one by one, to the largest fractions that have room."""
    order = sorted(range(len(counts)), key=lambda i: (-fractions[i], i))
    while rest:
        for index in order:
            if rest and counts[index] < high[index]:
                counts[index] += 1
                rest -= 1
    return counts
