"""The trial of momentum-variance budgets: pairs are pairs, figures are right, the rule decides."""

import itertools
import json
import math
from dataclasses import asdict, replace
from multiprocessing.pool import ThreadPool
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from tiny_builds import model_folder, sentence_lines, text_file

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture(autouse=True)
def _benchmarks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(BENCHMARKS)
    torch.set_num_threads(1)


# the design ------------------------------------------------------------------------------------


def test_the_factorial_is_whole_and_comes_in_pairs():
    from trial.design import BUDGETS, CONDITIONS, SALIENCIES, cells

    core = [cell for cell in cells(0) if cell.variant == "core"]
    assert len(core) == len(BUDGETS) * len(SALIENCIES) * len(CONDITIONS) * 10 == 1000
    assert len({cell.key for cell in cells(0)}) == len(list(cells(0)))
    for tier, count in ((0, 1000 + 5 * 3 * 2 * 10), (1, 3 * 2 * 2 * 5)):
        made = list(cells(tier))
        assert len(made) == count
        without = {replace(cell, budget="mv").key for cell in made}
        assert len(without) * len({c.budget for c in made}) >= count


def test_windows_lie_where_pruning_goes_on():
    from trial.design import in_window

    inside = [step for step in range(1, 801) if in_window(step, 800, 30)]
    assert len(inside) == 4 * 30
    assert inside[0] == 121
    assert inside[-1] == 510


# a run -----------------------------------------------------------------------------------------


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> Any:
    from trial import synthetic

    monkeypatch.setattr(synthetic, "DENSE_STEPS", 40)
    synthetic.make_task.cache_clear()
    yield synthetic
    synthetic.make_task.cache_clear()


@pytest.mark.parametrize("condition", ["clean", "noisy", "bursts", "rate_spike", "switch"])
def test_a_run_repeats_itself_and_reaches_its_sparsity(short, condition):
    from trial.design import Cell

    cell = Cell(0, "mv", "platon", condition, 3)
    first, again = (short.run(cell, steps=40) for _ in range(2))
    for row in (first, again):
        del row["seconds"]
    assert first == again
    weights = 64 * 128 + 128 * 128 + 128 * 10
    assert first["sparsity"] == round(0.95 * weights) / weights
    assert first["churn"] == pytest.approx(0.95, abs=1e-4)  # nothing grows back
    assert 0 <= first["in_windows"] <= 1


def test_pairs_see_the_same_data_and_the_same_noise(short, monkeypatch):
    """Whatever the budget: batches, labels and gradient noise are those of the seed."""
    from trial.design import Cell

    seen: dict[str, list[float]] = {}
    real_draw, real_burst = short.Task.draw, short.add_burst

    def draw(self, count, domain, noise, generator):
        x, y = real_draw(self, count, domain, noise, generator)
        seen[budget] += [count, domain, float(x.sum()), float(y.sum())]
        return x, y

    def burst(tensors, ratio, generator):
        seen[budget].append(float(generator.get_state().double().sum()))
        real_burst(tensors, ratio, generator)

    monkeypatch.setattr(short.Task, "draw", draw)
    monkeypatch.setattr(short, "add_burst", burst)
    for budget in ("cubic", "mv"):
        seen[budget] = []
        short.make_task.cache_clear()
        short.run(Cell(0, budget, "grad", "bursts", 1), steps=40)
    assert seen["cubic"] == seen["mv"]


def test_label_noise_and_domains_are_what_they_say(short):
    task = short.make_task(0)
    for share in (0.0, 0.2):
        x, y = task.draw(20000, 0, share, torch.Generator().manual_seed(5))
        wrong = float((task.teacher(x).argmax(1) != y).double().mean())
        assert wrong == pytest.approx(share * 0.9, abs=0.02)
    spreads = [
        task.draw(20000, domain, 0, torch.Generator().manual_seed(5))[0].T.cov()
        for domain in (0, 1)
    ]
    values = [torch.linalg.eigvalsh(spread) for spread in spreads]
    torch.testing.assert_close(values[0], values[1], rtol=0.02, atol=0.02)  # turned, not stretched
    assert float((spreads[0] - spreads[1]).norm()) > 0.5 * float(spreads[0].norm())


def test_a_burst_has_the_norm_that_was_asked_for():
    from trial.synthetic import add_burst

    gradients = [torch.randn(80, 90), torch.randn(700)]
    before = [gradient.clone() for gradient in gradients]
    add_burst(gradients, 25.0, torch.Generator().manual_seed(0))
    norm = math.hypot(*(float(g.norm()) for g in before))
    added = math.hypot(*(float((a - b).norm()) for a, b in zip(gradients, before, strict=True)))
    assert added == pytest.approx(25 * norm, rel=0.05)


@pytest.mark.parametrize("condition", ["clean", "bursts"])
def test_an_encoder_is_pruned_and_measured(condition, tmp_path, monkeypatch):
    """Tier 1 on a tiny model: exact shares, both pools' updates, a correlation."""
    from trial import minilm
    from trial.design import Cell

    for name in ("text", "pairs"):
        (tmp_path / name).mkdir()
    text_file(tmp_path / minilm.TEXT, 200)
    lines = sentence_lines(40, seed=3)
    pairs = [
        {"text": a, "text_pair": b, "score": i % 6}
        for i, (a, b) in enumerate(itertools.pairwise(lines))
    ]
    (tmp_path / minilm.PAIRS).write_text("\n".join(map(json.dumps, pairs)))
    monkeypatch.setattr(minilm, "STEPS", 12)
    folder = model_folder(tmp_path / "model")
    row = minilm.prune_and_measure(Cell(1, "mv", "platon", condition, 0), tmp_path, folder)
    assert row["sparsity"] == 0.5
    assert row["churn"] == pytest.approx(0.5)
    assert -100 <= row["metric"] <= 100
    assert row["loss_spike"] >= 0
    # What the original answered to other runs' text changes nothing.
    minilm.prune_and_measure(Cell(1, "cubic", "grad", "clean", 0), tmp_path, folder)
    again = minilm.prune_and_measure(Cell(1, "mv", "platon", condition, 0), tmp_path, folder)
    assert {**again, "seconds": 0} == {**row, "seconds": 0}
    answers = minilm.of_seed(0, tmp_path, folder)[1].module.forward.answers
    held_out = len(minilm.of_seed(0, tmp_path, folder)[0].held_out_batches())
    assert len(answers) == 12 + held_out  # one for each step's text, however many runs


# outcomes --------------------------------------------------------------------------------------


def test_a_spike_is_a_rise_within_fifty_steps_of_an_update():
    from trial.outcomes import loss_spike

    curve = {0: 1.0, 10: 1.2, 20: 0.5, 60: 4.0, 80: 0.4}
    assert loss_spike(curve, [5]) == pytest.approx(0.2)  # 60 is out of reach
    assert loss_spike(curve, [20]) == pytest.approx(3.5)
    assert loss_spike(curve, [60]) == 0.0
    assert loss_spike(curve, [80]) == 0.0  # nothing after it


def test_what_falls_into_windows_is_counted():
    from trial.outcomes import stability

    updates = [
        {"step": s, "dropped": d, "churn": d / 100} for s, d in [(10, 5), (16, 20), (70, 15)]
    ]
    found = stability(updates, {0: 1.0}, steps=100, window=3)
    assert found["in_windows"] == 20 / 40
    assert found["largest_update"] == 0.2
    assert found["churn"] == pytest.approx(0.4)


# statistics ------------------------------------------------------------------------------------


@given(st.lists(st.floats(-5, 5), min_size=3, max_size=12).filter(lambda v: np.std(v) > 1e-3))
def test_the_interval_is_students(values):
    from trial.statistics import interval

    expected = stats.ttest_1samp(values, 0).confidence_interval(0.95)
    found = interval(values)
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high))


def rows_of(effect_cubic: float, effect_static: float, noise: float = 0.1) -> list[dict[str, Any]]:
    """Core rows of ten seeds whose budgets differ by planted effects, seeds by far more."""
    rng = np.random.default_rng(0)
    shift = {"cubic": -effect_cubic, "static_gradnorm": -effect_static, "mv": 0.0}
    rows = []
    for seed in range(10):
        level = 80 + 5 * rng.standard_normal()
        for saliency in ("grad", "platon"):
            for budget, by in shift.items():
                metric = level + by + noise * rng.standard_normal()
                stable = {"churn": 0.95, "largest_update": 0.1, "loss_spike": 0.2}
                rows.append(
                    {
                        "tier": 0, "variant": "core", "budget": budget, "saliency": saliency,
                        "condition": "bursts", "seed": seed, "metric": metric,
                        "in_windows": 0.1, **stable,
                    }
                )  # fmt: skip
    return rows


@pytest.mark.parametrize(
    ("cubic", "static", "expected"),
    [
        (1.0, 1.0, "helps"),
        (1.0, 0.0, "not shown"),
        (0.0, 1.0, "not shown"),
        (-1.0, 1.0, "not shown"),
        (-1.0, -1.0, "harms"),
    ],
)
def test_the_rule_falls_either_way(cubic, static, expected):
    from trial.report import report, show, verdict
    from trial.statistics import paired

    rows = rows_of(cubic, static)
    found, against_cubic, _ = verdict(rows)
    assert found == expected
    assert against_cubic.pairs == 10  # seeds, not runs
    assert against_cubic.mean == pytest.approx(cubic, abs=0.1)
    text = report(rows)
    assert f"| grad | bursts | {show(paired(rows, 'mv', 'cubic', saliency='grad'))} |" in text
    assert ("budget helps: both" in text) == (expected == "helps")


def test_pairing_removes_what_seeds_share():
    """Seeds differ by 5 points, pairs by a tenth: the interval knows the tenth."""
    from trial.statistics import paired

    found = paired(rows_of(0.3, 0.0), "mv", "cubic")
    assert found.high - found.low < 0.3
    assert found.low > 0


def test_half_a_pair_counts_for_nothing():
    from trial.statistics import paired

    rows = [row for row in rows_of(1, 1) if row["budget"] == "mv" or row["seed"] == 4]
    assert paired(rows, "mv", "cubic").pairs == 1


def test_the_figure_is_drawn(tmp_path):
    pytest.importorskip("matplotlib")
    from trial.report import draw

    draw(rows_of(1, 0), tmp_path / "figure.svg")
    assert "momentum-variance minus cubic" in (tmp_path / "figure.svg").read_text().replace(
        "<!-- Tier 0: ", ""
    )


# running ---------------------------------------------------------------------------------------


def test_runs_that_are_there_are_not_run_again(tmp_path, monkeypatch):
    import momentum_variance

    ran = []

    def run(cell):
        ran.append(cell.key)
        return {"metric": 1.0}

    monkeypatch.setattr(momentum_variance, "run", run)
    file = tmp_path / "rows.jsonl"
    momentum_variance.fill(file, 1, None, 7)
    momentum_variance.fill(file, 1, None, None)
    assert len(ran) == len(set(ran)) == 60
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    assert {row["metric"] for row in rows} == {1.0}
    momentum_variance.fill(file, 1, None, None)
    assert len(ran) == 60


def test_processes_share_runs_out_and_change_nothing(tmp_path, monkeypatch):
    import momentum_variance
    from trial.design import cells

    monkeypatch.setattr(momentum_variance, "run", lambda cell: {"metric": hash(cell.key)})
    files = [tmp_path / f"{jobs}.jsonl" for jobs in (1, 2)]
    with ThreadPool(2) as pool:
        monkeypatch.setattr(momentum_variance, "_pool", lambda jobs: pool)
        for jobs, file in enumerate(files, start=1):
            momentum_variance.fill(file, 0, None, 50, jobs)
    one, two = (momentum_variance.read(file) for file in files)
    assert one == two
    assert [cell.key for cell in momentum_variance.absent(0, one)] == [
        cell.key for cell in list(cells(0))[50:]
    ]


def test_what_is_left_is_counted_and_timed():
    import momentum_variance
    from trial.design import cells

    first, *_ = momentum_variance.left([])
    assert first == "tier 0, core: 1000 of 1000 runs are left, 20 minutes"
    rows = [{**asdict(cell), "seconds": 6.0} for cell in cells(0) if cell.variant == "core"][:400]
    first, *others = momentum_variance.left(rows)
    assert first == "tier 0, core: 600 of 1000 runs are left, 60 minutes"
    assert others[-1] == "tier 1, core: 60 of 60 runs are left, 55 minutes"
