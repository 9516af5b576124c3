"""The trial of momentum-variance pruning: pairs are pairs, intervals hold, the rule decides."""

import json
import math
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture(autouse=True)
def _benchmarks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(BENCHMARKS)


# the design ------------------------------------------------------------------------------------


def test_the_factorial_is_whole_and_what_the_rule_needs_comes_first():
    from trial.design import AVERAGED, BLOCKS, BURST_FREE, CONDITIONS, tier0, tier1

    arms = [arm for block in BLOCKS.values() for arm in block]
    assert len(arms) == len(set(arms)) == 4 * 3 * 4 + 4 + 4  # magnitude has no averages
    assert [len(BLOCKS[name]) for name in ("averages", "budgets")] == [
        2 * len(AVERAGED), 3 * len(AVERAGED),
    ]  # fmt: skip
    work = tier0()
    assert len(work) == len(set(work)) == len(BLOCKS) * 20 * len(CONDITIONS)
    first = work[: 20 * 6]
    assert {(block, name) for block, _, name in first} == {
        ("averages", "random"), ("budgets", "random"), *(("averages", n) for n in BURST_FREE),
    }  # fmt: skip
    assert [seed for _, seed, _ in first] == sorted(6 * list(range(300, 320)))
    assert len(set(tier1())) == len(tier1()) == 8 * 10 * 2


def test_fixed_bursts_lie_where_pruning_goes_on():
    from trial.design import CONDITIONS, burst_at, bursts

    windows = bursts(CONDITIONS["bursts"], 0, 500)
    inside = [step for step in range(1, 501) if burst_at(step, windows)]
    assert len(inside) == 4 * 20
    assert (inside[0], inside[-1]) == (76, 320)
    assert not bursts(CONDITIONS["switch"], 0, 500)


@given(st.integers(0, 10_000), st.sampled_from([120, 500]))
def test_random_bursts_are_of_the_sizes_that_the_rule_names(seed, steps):
    from trial.design import CONDITIONS, bursts

    windows = bursts(CONDITIONS["random"], seed, steps)
    assert 3 <= len(windows) <= 6
    for each in windows:
        assert 0.05 * steps - 1 < each.after < 0.7 * steps + 1
        assert 1 <= each.length <= {120: 10, 500: 40}[steps]
        assert 3 <= each.noise <= 100
    assert windows == bursts(CONDITIONS["random"], seed, steps)


def test_the_strongest_of_bursts_that_overlap_holds():
    from trial.design import Burst, burst_at

    windows = (Burst(10, 10, 3.0), Burst(15, 2, 9.0))
    assert [burst_at(step, windows) for step in (10, 11, 16, 18, 21)] == [
        None, windows[0], windows[1], windows[0], None,
    ]  # fmt: skip


def test_what_falls_into_bursts_is_counted():
    from trial.design import Burst
    from trial.outcomes import stability

    updates = [
        {"step": s, "dropped": d, "churn": d / 100} for s, d in [(10, 5), (16, 20), (70, 15)]
    ]
    found = stability(updates, [Burst(15, 3, 1.0), Burst(10, 2, 1.0)])
    assert found == {"inside": 20 / 40, "largest_update": 0.2}


# statistics ------------------------------------------------------------------------------------


HUNDREDTHS = st.integers(-500, 500).map(lambda number: number / 100)


@given(st.lists(HUNDREDTHS, min_size=3, max_size=12).filter(lambda v: np.std(v) > 1e-3))
def test_the_interval_is_students(values):
    from trial.statistics import interval

    expected = stats.ttest_1samp(values, 0).confidence_interval(0.95)
    found = interval(values)
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high))


def test_the_bootstrap_over_seeds_is_that_of_scipy():
    from trial.statistics import bootstrap

    rng = np.random.default_rng(1)
    sides = [{seed: rng.normal(at, 1, 4).tolist() for seed in range(20)} for at in (1.0, 0.0)]
    arrays = [np.array(list(side.values())) for side in sides]

    def difference(picked: Any) -> float:
        return float(np.percentile(arrays[0][picked], 5) - np.percentile(arrays[1][picked], 5))

    expected = stats.bootstrap(
        (np.arange(20),), difference, n_resamples=4000, method="percentile", vectorized=False
    ).confidence_interval
    found = bootstrap(*sides, lambda values: np.percentile(values, 5, axis=1), 4000)
    assert found.mean == pytest.approx(difference(np.arange(20)))
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high), abs=0.1)
    assert math.isnan(bootstrap({1: [2.0]}, {1: [1.0]}, lambda v: v.mean(1), 10).low)


def rows_of(tier: int = 0, noise: float = 0.1, **shifts: Any) -> list[dict[str, Any]]:
    """A tier's rows that the rule speaks of, of ten seeds that differ by five points.

    shifts: "budget_averages" or "budget_averages_condition" -> points that these arms have more.
    """
    from trial.design import BLOCKS, RULED, TIER1_ARMS, TIER1_CONDITIONS

    rng = np.random.default_rng(0)
    conditions = RULED if tier == 0 else TIER1_CONDITIONS
    ruled = [arm for block in ("averages", "budgets") for arm in BLOCKS[block]]
    rows = []
    for seed in range(10):
        level = 80 + 5 * rng.standard_normal()
        for condition in conditions:
            for arm in ruled if tier == 0 else TIER1_ARMS:
                name = f"{arm.budget}_{arm.averages}"
                more = shifts.get(f"{name}_{condition}", shifts.get(name, 0.0))
                rows.append(
                    {
                        "tier": tier, "seed": seed, "condition": condition, "budget": arm.budget,
                        "averages": arm.averages, "saliency": arm.saliency,
                        "metric": level + more + noise * rng.standard_normal(),
                        "inside": shifts.get("inside", 0.03) if arm.budget == "mv" else 0.1,
                        "largest_update": 0.1,
                    }
                )  # fmt: skip
    return rows


def outcomes(rows: list[dict[str, Any]], tier: int = 0) -> dict[str, str]:
    from trial.rule import verdicts

    return {each.part: each.outcome for each in verdicts(rows, tier)}


def test_pairing_removes_what_seeds_share():
    """Seeds differ by 5 points, pairs by a tenth: the interval knows the tenth."""
    from trial.statistics import paired

    found = paired(rows_of(mv_adaptive=0.3), ("mv", "adaptive"), ("cubic", "adaptive"))
    assert found.seeds == 10  # seeds, not runs
    assert found.mean == pytest.approx(0.3, abs=0.05)
    assert 0 < found.low < found.high < 0.6


def test_half_a_pair_counts_for_nothing():
    from trial.statistics import paired

    rows = [row for row in rows_of() if row["budget"] == "mv" or row["seed"] == 4]
    assert paired(rows, ("mv", "adaptive"), ("cubic", "adaptive")).seeds == 1


# the rule --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("shifts", "expected"),
    [
        ({}, {"M": "holds", "A": "not shown", "B": "no effect", "C": "not shown"}),
        ({"inside": 0.05}, {"M": "holds"}),
        ({"inside": 0.051}, {"M": "does not hold", "B": "void", "C": "void"}),
        ({"cubic_clip": -1}, {"A": "helps", "B": "no effect", "C": "helps"}),
        # A gain in bursts that costs half a point and more in one calm condition is none.
        ({"cubic_clip": -1, "cubic_clip_switch": 0.6}, {"A": "not shown", "B": "no effect"}),
        ({"cubic_clip": -1, "cubic_clip_switch": 0.3}, {"A": "helps"}),
        ({"cubic_clip": 0.3}, {"A": "not shown"}),
        ({"mv_adaptive": 1}, {"A": "not shown", "B": "helps", "C": "helps"}),
        ({"mv_adaptive": 0.3}, {"B": "helps"}),  # above 0 helps, however small
        ({"mv_adaptive": -0.3}, {"B": "no effect"}),
        ({"mv_adaptive": -1}, {"B": "not shown", "C": "not shown"}),
        ({"mv_adaptive": 1, "static_gradnorm_adaptive": 1}, {"B": "not shown"}),
        ({"mv_adaptive": 1, "fixed_mom_adaptive": 1.3}, {"B": "not shown"}),
    ],
)  # fmt: skip
def test_the_rule_falls_either_way(shifts, expected):
    found = outcomes(rows_of(**shifts))
    assert {part: found[part] for part in expected} == expected


@pytest.mark.parametrize(
    ("shifts", "expected"),
    [
        ({}, {"A1": "not shown", "B1": "no effect", "W": "no effect"}),
        ({"cubic_clip": -1}, {"A1": "helps", "B1": "no effect"}),
        ({"cubic_clip": -1, "cubic_clip_clean": 0.4}, {"A1": "not shown"}),
        ({"mv_adaptive": 0.5}, {"B1": "helps", "W": "helps"}),
        ({"mv_adaptive": -0.5}, {"B1": "not shown", "W": "not shown"}),
    ],
)
def test_the_rule_of_minilm_falls_either_way(shifts, expected):
    found = outcomes(rows_of(1, **shifts), 1)
    assert {part: found[part] for part in expected} == expected


def test_a_verdict_is_over_whole_seeds():
    """A seed of which one arm is missing counts nowhere; one seed decides nothing."""
    from trial.rule import verdicts, whole_seeds

    rows = rows_of()
    cut = [r for r in rows if (r["seed"], r["condition"], r["averages"]) != (9, "switch", "clip")]
    assert {row["seed"] for row in whole_seeds(cut, 0)} == set(range(9))
    for verdict in verdicts(cut, 0):
        assert {each.seeds for each in verdict.found.values()} == {9}
    one = [row for row in rows if row["seed"] == 3]
    assert set(outcomes(one).values()) == {"not run"}


def test_the_report_says_what_the_rule_says_and_draws_it(tmp_path):
    pytest.importorskip("matplotlib")
    from trial.report import draw, report, show
    from trial.statistics import Paired, chosen, paired

    rows = [*rows_of(cubic_clip=-1), *rows_of(1)]
    text = report(rows)
    assert "over 10 of its 20 seeds" in text
    assert "| A | averages: adaptive minus clipped, cubic budget | **helps** |" in text
    of_grad = chosen([row for row in rows if row["tier"] == 0], ["random"], ["grad"])
    one = paired(of_grad, ("cubic", "adaptive"), ("cubic", "clip"))
    assert f"| random | grad | {show(one, 10)} | not run | not run | not run |" in text
    assert show(replace(one, seeds=7), 10).endswith(", 7 seeds)")
    assert show(Paired(1, -0.5, 2.5, 3), 3) == "+1.00 (-0.50 to +2.50)"
    files = [tmp_path / name for name in ("one.svg", "two.svg")]
    for file in files:
        draw(rows, file)
    assert files[0].read_bytes() == files[1].read_bytes()
    assert "adaptive minus clipped" in files[0].read_text()


# running ---------------------------------------------------------------------------------------


def test_jobs_that_are_there_are_not_run_again(tmp_path, monkeypatch):
    import momentum_variance
    from results_file import read_results

    ran = []

    def run(job):
        ran.append(job.name)
        if len(ran) == 8:
            raise KeyboardInterrupt
        return [{**asdict(arm), "metric": 1.0} for arm in job.arms]

    monkeypatch.setattr(momentum_variance, "run", run)
    file = tmp_path / "rows.jsonl"
    with pytest.raises(KeyboardInterrupt):
        momentum_variance.fill(file, 0)
    assert len(file.read_text().splitlines()) == 7
    momentum_variance.fill(file, 0)
    assert len(ran) == 480 + 1
    assert len(set(ran)) == 480
    rows = list(momentum_variance.arm_rows(read_results(file)))
    assert len(rows) == 56 * 6 * 20
    assert all(json.dumps(row) for row in rows)
    momentum_variance.fill(file, 0)
    assert len(ran) == 481


def test_what_is_left_is_counted_and_timed():
    import momentum_variance
    from results_file import read_results

    assert list(momentum_variance.left({})) == [
        "tier 0: 480 of 480 jobs are left, 56 minutes",
        "tier 1: 160 of 160 jobs are left, 320 minutes",
    ]
    lines = {
        job.name: {
            "tier": 0, "seed": job.seed, "condition": job.condition, "seconds": 6.0,
            "arms": [asdict(arm) for arm in job.arms],
        }
        for job in momentum_variance.jobs(0)[:90]
    }  # fmt: skip
    assert next(momentum_variance.left(lines)) == "tier 0: 390 of 480 jobs are left, 39 minutes"
    assert read_results(Path("/nowhere")) == {}
