"""The pruner on small networks: every invariant that needs tensors."""

import copy
import json
import math
import statistics

import pytest
import safetensors.torch
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from edgeprune.base.budget import apportion
from edgeprune.base.errors import UserError
from edgeprune.compress.prune.controller import MomentumVariancePruner, Prunable
from edgeprune.compress.prune.schedule import cubic_target, update_steps
from edgeprune.compress.prune.settings import PruneSettings

STEPS = 60
MODES = ["mv", "cubic", "static_gradnorm", "fixed_mom"]


class Toy:
    """A seeded regression of a two-layer network on a fixed teacher, with its pruner."""

    def __init__(self, seed: int = 0, widths: tuple[int, int, int] = (12, 18, 7), **values) -> None:
        torch.manual_seed(seed)
        inputs, hidden, outputs = widths
        self.teacher = nn.Sequential(
            nn.Linear(inputs, hidden), nn.Tanh(), nn.Linear(hidden, outputs)
        )
        self.net = copy.deepcopy(self.teacher)
        self.optimizer = torch.optim.AdamW(self.net.parameters(), lr=1e-2, weight_decay=0.1)
        values = {"pattern": "weights", "updates": 15, **values}
        if ":" not in values["pattern"]:
            values.setdefault("sparsity", 0.7)
        self.settings = PruneSettings(**values)
        weights = {"first": self.net[0].weight, "second": self.net[2].weight}
        self.pruner = MomentumVariancePruner(
            [Prunable(name, w) for name, w in weights.items()], self.settings, STEPS
        )
        self.weights = weights
        self.data = torch.Generator().manual_seed(seed + 1)

    def loss(self, samples: int = 16) -> Tensor:
        x = torch.randn(samples, self.teacher[0].in_features, generator=self.data)
        return (self.net(x) - self.teacher(x)).square().mean()

    def step(self, scale: float = 1.0) -> None:
        self.optimizer.zero_grad()
        (self.loss() * scale).backward()
        self.pruner.observe()
        self.optimizer.step()
        self.pruner.after_step(self.optimizer)

    def run(self, steps: int = STEPS) -> "Toy":
        for _ in range(steps):
            self.step()
        return self


def total_kept(pruner: MomentumVariancePruner) -> int:
    return sum(int(mask.sum()) for mask in pruner.masks.values())


def feed(pruner: MomentumVariancePruner, values: list[Tensor], gradients: list[list[Tensor]]):
    """Drive a pruner by given gradients, without an optimizer; masks after every step."""
    seen = []
    for step in gradients:
        for value, gradient in zip(values, step, strict=True):
            value.grad = gradient.clone()
        pruner.observe()
        pruner.after_step()
        seen.append({name: mask.clone() for name, mask in pruner.masks.items()})
    return seen


# 1. exact landing ------------------------------------------------------------------------------


@settings(max_examples=60)
@given(
    shapes=st.lists(st.tuples(st.integers(1, 6), st.integers(1, 6)), min_size=1, max_size=4),
    share=st.floats(0, 0.9),
    updates=st.integers(1, 70),
    steps=st.integers(1, 40),
    mode=st.sampled_from(MODES),
    saliency=st.sampled_from(["magnitude", "platon", "movement"]),
    regrowth=st.sampled_from([0.0, 0.9]),
    layers=st.sampled_from(["global", "layered"]),
    seed=st.integers(0, 99),
)
def test_lands_exactly(shapes, share, updates, steps, mode, saliency, regrowth, layers, seed):
    generator = torch.Generator().manual_seed(seed)
    values = [nn.Parameter(torch.randn(shape, generator=generator)) for shape in shapes]
    units = sum(value.numel() for value in values)
    floors = [
        max(1, math.ceil(0.05 * v.numel() - 1e-9), v.numel() - int(0.95 * v.numel() + 1e-9))
        for v in values
    ]
    wanted = PruneSettings(
        pattern="weights",
        sparsity=share,
        updates=updates,
        budget=mode,
        saliency=saliency,
        regrowth=regrowth,
        layer_budgets=layers,
    )
    prunables = [Prunable(str(i), value) for i, value in enumerate(values)]
    if units - round(share * units) < sum(floors):
        with pytest.raises(UserError, match="max_layer_sparsity"):
            MomentumVariancePruner(prunables, wanted, steps)
        return
    pruner = MomentumVariancePruner(prunables, wanted, steps)
    gradients = [[torch.randn(s, generator=generator) for s in shapes] for _ in range(steps)]
    seen = feed(pruner, values, gradients)
    pruner.finish()
    assert total_kept(pruner) == units - round(share * units)
    kept = [sum(int(mask.sum()) for mask in masks.values()) for masks in seen]
    assert kept == sorted(kept, reverse=True)  # 3. monotone, with regrowth too
    for masks in seen:  # 9. floors, at every step
        assert all(int(m.sum()) >= low for m, low in zip(masks.values(), floors, strict=True))
    for value, mask in zip(values, pruner.masks.values(), strict=True):
        assert not bool(value.detach()[~mask].any())
    for row in pruner.trajectory:  # 2. never ahead of the target, in whole units
        assert row["sparsity"] <= row["target"] + 1 / units


@pytest.mark.parametrize("pattern", ["2:4", "1:3", "4x1", "1x4", "3x5"])
@pytest.mark.parametrize("regrowth", [0.0, 0.15])
@pytest.mark.parametrize("layers", ["global", "layered"])
def test_patterns_land_exactly(pattern, regrowth, layers):
    toy = Toy(pattern=pattern, regrowth=regrowth, layer_budgets=layers).run()
    toy.pruner.finish()
    masks = toy.pruner.masks
    if ":" in pattern:
        n, m = (int(part) for part in pattern.split(":"))
        for mask in masks.values():
            for group in mask.split(m, dim=1):  # the ragged group of 18 % 4 keeps two
                assert set(group.sum(1).tolist()) == {min(n, group.shape[1])}
        return
    k, n = (int(part) for part in pattern.split("x"))
    alive = blocks = 0
    for mask in masks.values():
        for rows in mask.split(n, dim=0):
            for block in rows.split(k, dim=1):
                assert bool(block.all()) or not bool(block.any())
                alive += bool(block.all())
                blocks += 1
    assert alive == blocks - round(0.7 * blocks)


# 6. scale --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "saliency", ["magnitude", "grad", "momentum", "fisher", "adamwprune", "platon", "movement"]
)
@pytest.mark.parametrize("factor", [2.0**-12, 2.0**9])
def test_scale_of_the_loss_does_not_matter(saliency, factor):
    runs = []
    for scale in (1.0, factor):
        generator = torch.Generator().manual_seed(5)
        values = [nn.Parameter(torch.randn(6, 8, generator=generator)) for _ in range(2)]
        wanted = PruneSettings(pattern="weights", saliency=saliency, regrowth=0.1, sparsity=0.8)
        pruner = MomentumVariancePruner(
            [Prunable(str(i), value) for i, value in enumerate(values)], wanted, 50
        )
        gradients = [
            [torch.randn(6, 8, generator=generator) * scale for _ in values] for _ in range(50)
        ]
        masks = feed(pruner, values, gradients)
        rows = [(row["beta"], row["deviation"], row["budget"]) for row in pruner.trajectory]
        runs.append((masks, rows))
    (plain, rows), (scaled, other) = runs
    assert rows == other
    assert all(torch.equal(a[n], b[n]) for a, b in zip(plain, scaled, strict=True) for n in a)


# 8. degenerate modes ---------------------------------------------------------------------------


def test_cubic_magnitude_is_zhu_and_gupta_to_the_bit():
    """Against the schedule and the ranking written out here, on its own copy of the training."""
    toy = Toy(budget="cubic", saliency="magnitude")
    twin = Toy(budget="cubic", saliency="magnitude")
    due = update_steps(STEPS, 0.05, 0.7, 15)
    masks = {name: torch.ones_like(w, dtype=torch.bool) for name, w in twin.weights.items()}
    units = sum(w.numel() for w in twin.weights.values())
    for step in range(1, STEPS + 1):
        toy.step()
        twin.optimizer.zero_grad()
        twin.loss().backward()
        for name, w in twin.weights.items():
            w.grad[~masks[name]] = 0
        twin.optimizer.step()
        for name, w in twin.weights.items():
            w.data[~masks[name]] = 0
        if step in due:
            target = cubic_target(step, due[0], due[-1], 0.7)
            scores = []
            for name, w in twin.weights.items():
                size = w.detach().abs()
                size = size / size[masks[name]].mean()
                scores.append(size.masked_fill(~masks[name], -1).reshape(-1))
            order = torch.cat(scores).argsort(stable=True)
            keep = torch.ones(units, dtype=torch.bool)
            keep[order[: round(target * units)]] = False
            first = masks["first"].numel()
            masks["first"] = keep[:first].reshape(masks["first"].shape)
            masks["second"] = keep[first:].reshape(masks["second"].shape)
            for name, w in twin.weights.items():
                w.data[~masks[name]] = 0
        assert all(torch.equal(masks[n], toy.pruner.masks[n]) for n in masks)
        assert all(torch.equal(twin.weights[n], toy.weights[n]) for n in masks)


@pytest.mark.parametrize("saliency", ["magnitude", "platon"])
def test_momentum_variance_without_momentum_is_cubic(saliency):
    tight = Toy(budget="mv", beta_min=0.0, beta_max=0.0, saliency=saliency)
    cubic = Toy(budget="cubic", saliency=saliency)
    for _ in range(STEPS):
        tight.step()
        cubic.step()
        for name, mask in tight.pruner.masks.items():
            assert torch.equal(mask, cubic.pruner.masks[name])
            assert torch.equal(tight.weights[name], cubic.weights[name])


def test_fixed_momentum_is_momentum_variance_with_one_beta():
    fixed = Toy(budget="fixed_mom").run()
    same = Toy(budget="mv", beta_min=0.5, beta_max=0.5).run()
    assert fixed.pruner.trajectory == same.pruner.trajectory
    free = Toy(budget="mv").run()
    assert fixed.pruner.trajectory != free.pruner.trajectory


# 9. layer budgets ------------------------------------------------------------------------------


def test_layer_budgets_follow_size_and_steadiness():
    """One update; what each layer gives up is the apportionment by active (1 - beta) r, where the
    variance is of the layer's own norms."""
    generator = torch.Generator().manual_seed(0)
    values = [nn.Parameter(torch.randn(20, 20, generator=generator)) for _ in range(3)]
    wanted = PruneSettings(
        pattern="weights", layer_budgets="layered", sparsity=0.6, updates=1, start=0.5, end=1
    )
    prunables = [Prunable(str(i), v, weight=r) for i, (v, r) in enumerate(zip(values, (1, 1, 2)))]  # noqa: B905
    pruner = MomentumVariancePruner(prunables, wanted, 40)
    due = pruner.budget.steps
    norms, gradients = [[], [], []], []
    for step in range(40):
        row = [torch.randn(20, 20, generator=generator) for _ in values]
        row[1] *= 8 if step % 3 == 0 else 0.2  # the middle layer is restless
        gradients.append(row)
        for own, g in zip(norms, row, strict=True):
            own.append(float(g.norm()))
    feed(pruner, values, gradients)
    weights = []
    for own, ratio in zip(norms, (1, 1, 2), strict=True):
        squares = []
        for step, norm in enumerate(own):
            squares.append((norm / statistics.median(own[:step] or [norm]) - 1) ** 2)
            if step + 1 == due[0]:
                squares.clear()
        variance = sum(squares) / len(squares)
        weights.append(400 * ratio / (1 + variance**2))
    gone = [400 - kept for kept in pruner.trajectory[-1]["kept"].values()]
    assert gone == apportion(720, weights, upper=[380] * 3)
    assert gone[1] < gone[0] < gone[2]
    assert sum(gone) == 720


@pytest.mark.parametrize("layers", ["global", "layered"])
def test_no_layer_loses_more_than_it_may(layers):
    """A layer of tiny weights would vanish under magnitude; its floor holds, the rest pays."""
    generator = torch.Generator().manual_seed(0)
    tiny = nn.Parameter(torch.randn(10, 10, generator=generator) * 1e-3)
    large = nn.Parameter(torch.randn(10, 30, generator=generator))
    wanted = PruneSettings(
        pattern="weights",
        saliency="magnitude",
        normalize="none",
        sparsity=0.6,
        max_layer_sparsity=0.8,
        layer_budgets=layers,
    )
    pruner = MomentumVariancePruner([Prunable("tiny", tiny), Prunable("large", large)], wanted, 30)
    feed(pruner, [tiny, large], [[torch.ones(10, 10), torch.ones(10, 30)]] * 30)
    pruner.finish()
    expected = {"tiny": 20, "large": 140} if layers == "global" else {"tiny": 40, "large": 120}
    assert pruner.trajectory[-1]["kept"] == expected
    for row in pruner.trajectory:
        assert row["kept"]["tiny"] >= 20


# 10. hygiene of masks --------------------------------------------------------------------------


@pytest.mark.parametrize("regrowth", [0.0, 0.3])
def test_masks_hold_against_weight_decay_and_momentum(regrowth):
    toy = Toy(regrowth=regrowth)
    for _ in range(STEPS):
        masks = {name: mask.clone() for name, mask in toy.pruner.masks.items()}
        toy.optimizer.zero_grad()
        toy.loss().backward()
        dense = {name: w.grad.clone() for name, w in toy.weights.items()}
        toy.pruner.observe()
        for name, w in toy.weights.items():
            assert not bool(w.grad[~masks[name]].any())
            assert torch.equal(w.grad[masks[name]], dense[name][masks[name]])
        toy.optimizer.step()
        toy.pruner.after_step(toy.optimizer)
        for name, w in toy.weights.items():
            assert not bool(w.detach()[~toy.pruner.masks[name]].any())
    for name, mask in toy.pruner.masks.items():
        assert float(dense[name][~mask].abs().mean()) > 0  # what was pruned still has a gradient


def test_the_gradient_is_dense_and_exact():
    """Autograd at masked entries equals the derivative of the masked network by hand."""
    toy = Toy().run(50)
    x = torch.randn(9, 12)
    toy.net.zero_grad()
    (toy.net(x) - toy.teacher(x)).square().mean().backward()
    got = toy.net[2].weight.grad
    hidden = torch.tanh(toy.net[0](x))
    error = toy.net(x) - toy.teacher(x)
    torch.testing.assert_close(got, (2 * error / error.numel()).T @ hidden)
    assert int((~toy.pruner.masks["second"]).sum()) > 0


def test_newborns_are_new_protected_and_start_at_zero():
    toy = Toy(regrowth=0.3, sparsity=0.6)
    births: dict[str, dict[int, int]] = {"first": {}, "second": {}}
    grown = 0
    before = {name: mask.clone() for name, mask in toy.pruner.masks.items()}
    for _ in range(STEPS):
        done = len(toy.pruner.trajectory)
        toy.step()
        if len(toy.pruner.trajectory) == done:
            continue
        row = toy.pruner.trajectory[-1]
        changed = 0
        for name, mask in toy.pruner.masks.items():
            new, gone = mask & ~before[name], before[name] & ~mask
            changed += int(new.sum()) + int(gone.sum())
            state = toy.optimizer.state[toy.weights[name]]
            for tensor in (toy.weights[name], state["exp_avg"], state["exp_avg_sq"]):
                assert not bool(tensor.detach()[new].any())
            for position in gone.reshape(-1).nonzero().squeeze(1).tolist():
                assert row["update"] - births[name].pop(position, -9) > 2
            for position in new.reshape(-1).nonzero().squeeze(1).tolist():
                births[name][position] = row["update"]
            before[name] = mask.clone()
        # A unit both dropped and grown in one update would be counted but not be seen.
        assert changed == row["dropped"] + row["grown"]
        assert row["churn"] == pytest.approx(changed / toy.pruner.units)
        grown += row["grown"]
        if row["update"] > 0.9 * 15:
            assert row["grown"] == 0
    assert grown > 20


def test_newborns_take_a_fresh_optimizers_first_step():
    """Adam's first step has the length of the learning rate, whatever the gradient's size."""
    toy = Toy(regrowth=0.5)
    for group in toy.optimizer.param_groups:
        group["weight_decay"] = 0.0
    new, lengths = {}, []
    for _ in range(STEPS):
        before = {name: mask.clone() for name, mask in toy.pruner.masks.items()}
        toy.step()
        for name, mask in toy.pruner.masks.items():
            if name in new:
                # Those that another update has dropped at once do not count.
                lengths += toy.weights[name].detach()[new[name] & mask].abs().tolist()
            new[name] = mask & ~before[name]
    # A few lead to nothing any more, or to next to nothing: Adam's epsilon shows there.
    exact = [length for length in lengths if length == pytest.approx(1e-2, rel=1e-2)]
    assert len(exact) > max(20, 0.97 * len(lengths))
    assert max(lengths) < 1.01e-2


def test_nothing_grows_back_at_the_end():
    """In the last tenth of the updates the cosine alone would still exchange weights."""
    value = nn.Parameter(torch.randn(60, 60, generator=torch.Generator().manual_seed(0)))
    wanted = PruneSettings(pattern="weights", regrowth=0.9, sparsity=0.5, updates=20)
    pruner = MomentumVariancePruner([Prunable("w", value)], wanted, 100)
    generator = torch.Generator().manual_seed(1)
    feed(pruner, [value], [[torch.randn(60, 60, generator=generator)] for _ in range(100)])
    grown = {row["update"]: row["grown"] for row in pruner.trajectory}
    assert grown[17] > 20
    assert grown[18] > 10  # 0.9 of 20 updates are over here
    assert grown[19] == grown[20] == 0
    fade = 0.5 * (1 + math.cos(math.pi * 19 / 20))
    assert round(0.9 * fade * 1800) > 5


def test_regrowth_takes_the_largest_mean_gradients():
    value = nn.Parameter(torch.arange(1.0, 41).reshape(4, 10))
    wanted = PruneSettings(
        pattern="weights",
        saliency="magnitude",
        regrowth=0.5,
        sparsity=0.5,
        updates=4,
        start=0.1,
        end=0.9,
    )
    pruner = MomentumVariancePruner([Prunable("w", value)], wanted, 40)
    generator = torch.Generator().manual_seed(2)
    mean = torch.zeros(4, 10)
    for _ in range(40):
        previous, done = pruner.masks["w"].clone(), len(pruner.trajectory)
        gradient = torch.randn(4, 10, generator=generator)
        mean = 0.9 * mean + 0.1 * gradient.abs()
        value.grad = gradient.clone()
        pruner.observe()
        pruner.after_step()
        if len(pruner.trajectory) > done and pruner.trajectory[-1]["grown"]:
            row = pruner.trajectory[-1]
            progress = row["update"] / 4
            calm = 1 / (1 + row["deviation"] ** 4)
            wished = round(
                0.5 * 0.5 * (1 + math.cos(math.pi * progress)) * calm * int(previous.sum())
            )
            assert row["grown"] == min(wished, int((~previous).sum()))
            new = pruner.masks["w"] & ~previous
            candidates = mean.masked_fill(previous, -1).reshape(-1)
            expected = candidates.topk(row["grown"]).indices.sort().values
            assert torch.equal(new.reshape(-1).nonzero().squeeze(1), expected)
    assert sum(row["grown"] for row in pruner.trajectory) > 0


# 11. steps that are not finite -----------------------------------------------------------------


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_step_that_is_not_finite_changes_nothing(bad):
    toy = Toy(regrowth=0.2).run(20)
    before = toy.pruner.state_dict()
    toy.optimizer.zero_grad()
    toy.loss().backward()
    toy.net[0].weight.grad[0, 0] = bad
    assert toy.pruner.observe() is False
    after = toy.pruner.state_dict()
    assert before["numbers"] == after["numbers"]
    assert all(torch.equal(t, after["tensors"][name]) for name, t in before["tensors"].items())
    mask = toy.pruner.masks["first"]
    assert not bool(toy.net[0].weight.grad[~mask].any())


def test_weights_that_are_not_finite_are_told():
    value = nn.Parameter(torch.ones(4, 4))
    wanted = PruneSettings(pattern="weights", saliency="magnitude")
    pruner = MomentumVariancePruner([Prunable("w", value)], wanted, 10)
    feed(pruner, [value], [[torch.ones(4, 4)]])
    value.data[0, 0] = math.nan
    with pytest.raises(UserError, match="w holds weights that are not finite"):
        feed(pruner, [value], [[torch.ones(4, 4)]] * 9)


# 12. checkpoints -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "values",
    [
        {"saliency": "platon", "regrowth": 0.2},
        {"saliency": "fisher", "pattern": "4x1", "regrowth": 0.2, "layer_budgets": "layered"},
        {"saliency": "momentum", "pattern": "2:4"},
        {"saliency": "movement", "budget": "static_gradnorm"},
        {"saliency": "grad", "budget": "fixed_mom"},
    ],
)
@pytest.mark.parametrize("cut", [7, 31])
def test_a_restored_run_goes_on_identically(values, cut):
    whole = Toy(**values).run()
    first = Toy(**values).run(cut)
    state = first.pruner.state_dict()
    tensors = safetensors.torch.load(safetensors.torch.save(state["tensors"]))
    numbers = json.loads(json.dumps(state["numbers"], allow_nan=False))
    second = Toy(**values)
    second.net.load_state_dict(copy.deepcopy(first.net.state_dict()))
    second.optimizer.load_state_dict(copy.deepcopy(first.optimizer.state_dict()))
    second.data.set_state(first.data.get_state())
    second.pruner.load_state_dict({"tensors": tensors, "numbers": numbers})
    second.run(STEPS - cut)
    assert second.pruner.trajectory == whole.pruner.trajectory
    for name, mask in whole.pruner.masks.items():
        assert torch.equal(mask, second.pruner.masks[name])
        assert torch.equal(whole.weights[name], second.weights[name])


# gates -----------------------------------------------------------------------------------------


class Gated:
    """y = W2 (gate * tanh(W1 x)) with hidden units of known worth."""

    def __init__(self, layers: int = 2, groups: Tensor | None = None, **values) -> None:
        torch.manual_seed(0)
        self.first = [torch.randn(12, 6) for _ in range(layers)]
        self.last = [torch.randn(5, 12) for _ in range(layers)]
        self.gates = [nn.Parameter(torch.zeros(12)) for _ in range(layers)]
        wanted = PruneSettings(**{"pattern": "channels", **values})
        self.pruner = MomentumVariancePruner(
            [
                Prunable(f"{i}", g, groups=groups, magnitude=w.norm(dim=0))
                for i, (g, w) in enumerate(zip(self.gates, self.last))  # noqa: B905
            ],
            wanted,
            STEPS,
        )

    def run(self) -> "Gated":
        for _ in range(STEPS):
            loss = torch.zeros(())
            for w1, gate, w2 in zip(self.first, self.gates, self.last, strict=True):
                x = torch.randn(8, 6)
                hidden = torch.tanh(x @ w1.T)
                # The wanted output differs from the full network's, so gradients never vanish.
                loss = loss + ((hidden * gate) @ w2.T - 2 * hidden @ w2.T).square().mean()
            loss.backward()
            self.pruner.observe()
            assert all(gate.grad is None for gate in self.gates)
            self.pruner.after_step()
        self.pruner.finish()
        return self


def test_gates_start_open_and_are_exactly_zero_or_one():
    gated = Gated(sparsity=0.5)
    assert all(bool((gate == 1).all()) for gate in gated.gates)  # set by the pruner
    gated.run()
    for gate, mask in zip(gated.gates, gated.pruner.masks.values(), strict=True):
        assert torch.equal(gate.detach(), mask.float())
    assert sum(int(mask.sum()) for mask in gated.pruner.masks.values()) == 12


@pytest.mark.parametrize(
    "saliency", ["magnitude", "grad", "momentum", "fisher", "adamwprune", "platon"]
)
def test_useless_channels_go_first(saliency):
    gated = Gated(sparsity=0.375, saliency=saliency)
    dead = [torch.tensor([0, 3, 5, 7, 8, 11]), torch.tensor([1, 2, 4])]
    for weight, index in zip(gated.last, dead, strict=True):
        weight[:, index] = 0
    magnitudes = [weight.norm(dim=0) for weight in gated.last]
    gated.pruner = MomentumVariancePruner(
        [
            Prunable(f"{i}", g, magnitude=lambda m=m: m)
            for i, (g, m) in enumerate(zip(gated.gates, magnitudes, strict=True))
        ],
        PruneSettings(pattern="channels", sparsity=0.375, saliency=saliency),
        STEPS,
    )
    gated.run()
    for mask, index in zip(gated.pruner.masks.values(), dead, strict=True):
        assert (~mask).nonzero().squeeze(1).tolist() == index.tolist()


def test_heads_of_a_group_go_together():
    groups = torch.arange(12) % 3
    gated = Gated(groups=groups, saliency="fisher", pattern="heads", head_sparsity=0.5).run()
    units = gated.pruner.kept_units
    assert sum(int(kept.sum()) for kept in units.values()) == 3  # of 6
    for name, mask in gated.pruner.masks.items():
        assert torch.equal(mask, units[name][groups])
        assert int(units[name].sum()) >= 1


def test_each_layer_keeps_a_unit():
    torch.manual_seed(0)
    gates = [nn.Parameter(torch.ones(8)) for _ in range(2)]
    prunables = [Prunable("weak", gates[0]), Prunable("strong", gates[1])]
    wanted = PruneSettings(pattern="heads", head_sparsity=0.5, saliency="fisher")
    pruner = MomentumVariancePruner(prunables, wanted, 30)
    feed(pruner, gates, [[torch.randn(8) * 1e-3, torch.randn(8)] for _ in range(30)])
    pruner.finish()
    assert pruner.trajectory[-1]["kept"] == {"weak": 1, "strong": 7}


def test_gates_share_one_scale_unless_told_otherwise():
    """Channels of a layer that hardly matters all go first; normalised, layers are even."""
    kept = {}
    for normalize in ("auto", "layer"):
        torch.manual_seed(0)
        gates = [nn.Parameter(torch.ones(20)) for _ in range(2)]
        wanted = PruneSettings(
            pattern="channels", sparsity=0.4, saliency="fisher", normalize=normalize
        )
        prunables = [Prunable("weak", gates[0]), Prunable("strong", gates[1])]
        pruner = MomentumVariancePruner(prunables, wanted, 30)
        feed(pruner, gates, [[torch.randn(20) * 1e-3, torch.randn(20)] for _ in range(30)])
        kept[normalize] = pruner.trajectory[-1]["kept"]
    assert kept["auto"] == {"weak": 4, "strong": 20}
    assert 8 <= kept["layer"]["weak"] <= 16


def signals(pruner: MomentumVariancePruner) -> dict[str, Tensor | float]:
    """All that a pruner has drawn from gradients."""
    tensors = {k: v for k, v in pruner.state_dict()["tensors"].items() if "buffer" in k}
    return {**tensors, "trend": pruner.budget.steadiness.trend}


def test_weights_are_judged_by_a_probe_and_trained_without_it():
    """As though the probe were part of the gradient; which the optimizer sees only masked."""
    torch.manual_seed(0)
    weight, trained, probed = (torch.randn(6, 5) for _ in range(3))
    heard, added = nn.Parameter(weight.clone()), nn.Parameter(weight.clone())
    settings = PruneSettings(pattern="weights", updates=1, start=0.1, end=0.2)
    pruners = [MomentumVariancePruner([Prunable("w", w)], settings, 10) for w in (heard, added)]
    for _ in range(4):  # from the second step on, weights are pruned
        heard.grad, added.grad = trained.clone(), trained + probed
        pruners[0].observe({heard: probed})
        pruners[1].observe()
        assert torch.equal(heard.grad, trained * pruners[0].masks["w"])
        for pruner in pruners:
            pruner.after_step()
    assert pruners[0].removed == 15
    first, second = (signals(pruner) for pruner in pruners)
    # How steady training is, its own gradient tells.
    assert first.pop("trend") == pytest.approx(float(trained.norm()))
    assert second.pop("trend") == pytest.approx(float((trained + probed).norm()))
    torch.testing.assert_close(first, second, rtol=0, atol=0)


def test_gates_are_judged_by_a_probe_alone():
    torch.manual_seed(0)
    trained, probed = torch.randn(8), torch.randn(8)
    settings = PruneSettings(pattern="channels")
    gates = [nn.Parameter(torch.ones(8)) for _ in range(2)]
    heard, alone = (MomentumVariancePruner([Prunable("g", gate)], settings, 10) for gate in gates)
    gates[0].grad, gates[1].grad = trained, probed.clone()
    heard.observe({gates[0]: probed})
    alone.observe()
    torch.testing.assert_close(signals(heard), signals(alone), rtol=0, atol=0)
    assert all(gate.grad is None for gate in gates)


def test_the_steadiness_of_gates_is_that_of_their_layers_training():
    """The norm over all trained weights of the gated layers; a frozen one takes no part."""
    torch.manual_seed(0)
    gates = [nn.Parameter(torch.ones(8)) for _ in range(2)]
    weights = [[nn.Parameter(torch.ones(8, 3)) for _ in range(3)] for _ in gates]
    prunables = [
        Prunable(str(n), gate, trained=own)
        for n, (gate, own) in enumerate(zip(gates, weights, strict=True))
    ]
    pruner = MomentumVariancePruner(prunables, PruneSettings(pattern="channels"), 10)
    gradients = [torch.randn(8, 3) for _ in range(4)]
    for weight, gradient in zip([*weights[0][:2], *weights[1][:2]], gradients, strict=True):
        weight.grad = gradient.clone()
    pruner.observe({gate: 1000 * torch.randn(8) for gate in gates})
    whole = float(torch.cat(gradients).norm())
    assert pruner.budget.steadiness.trend == pytest.approx(whole, rel=1e-6)
    assert all(
        torch.equal(w.grad, g)
        for w, g in zip(weights[0], gradients, strict=False)
        if w.grad is not None
    )


def test_a_probe_that_is_not_finite_changes_nothing():
    gate, weight = nn.Parameter(torch.ones(8)), nn.Parameter(torch.ones(8, 3))
    prunable = Prunable("g", gate, trained=[weight])
    pruner = MomentumVariancePruner([prunable], PruneSettings(pattern="channels"), 10)
    weight.grad = torch.ones(8, 3)
    assert pruner.observe({gate: torch.ones(8)})
    before = signals(pruner)
    assert not pruner.observe({gate: torch.full((8,), math.inf)})
    torch.testing.assert_close(signals(pruner), before, rtol=0, atol=0)


@pytest.mark.parametrize(("sparsity", "head_sparsity"), [(0.5, 0.9), (0.9, 0.5)])
def test_a_layer_may_lose_what_is_asked_of_its_own_kind(sparsity, head_sparsity):
    """Of 12 heads max_layer_sparsity lets 10 go, or as many as the share of heads asks: 11."""
    settings = PruneSettings(
        sparsity=sparsity, head_sparsity=head_sparsity, max_layer_sparsity=0.9, saliency="fisher"
    )
    _, heads = settings.pools()
    torch.manual_seed(0)
    gates = [nn.Parameter(torch.ones(12)) for _ in range(3)]
    names = ("weak", "mid", "strong")
    prunables = [Prunable(n, gate) for n, gate in zip(names, gates, strict=True)]
    pruner = MomentumVariancePruner(prunables, heads, 30)
    feed(pruner, gates, [[torch.randn(12) * 10.0**size for size in (-9, 0, 9)] for _ in range(30)])
    pruner.finish()
    assert pruner.removed == round(head_sparsity * 36)
    weakest = 12 - pruner.trajectory[-1]["kept"]["weak"]
    assert weakest == {0.9: 11, 0.5: 10}[head_sparsity]


def test_misuse_is_refused():
    gate, weight = nn.Parameter(torch.ones(4)), nn.Parameter(torch.ones(4, 4))
    with pytest.raises(ValueError, match=r"settings\.pools"):
        MomentumVariancePruner([Prunable("g", gate)], PruneSettings(), 10)
    mag = PruneSettings(pattern="heads", saliency="magnitude")
    with pytest.raises(ValueError, match="magnitude needs the norm"):
        MomentumVariancePruner([Prunable("g", gate)], mag, 10)
    with pytest.raises(ValueError, match="a vector"):
        MomentumVariancePruner([Prunable("g", weight)], PruneSettings(pattern="heads"), 10)
    grown = PruneSettings(pattern="heads").model_copy(update={"regrowth": 0.1})
    with pytest.raises(UserError, match="do not grow back"):
        MomentumVariancePruner([Prunable("g", gate)], grown, 10)
    pruner = MomentumVariancePruner([Prunable("w", weight)], PruneSettings(pattern="weights"), 10)
    with pytest.raises(ValueError, match="w has no gradient"):
        pruner.observe()
    with pytest.raises(RuntimeError, match="stopped after step 0"):
        pruner.finish()


# it works --------------------------------------------------------------------------------------


def test_training_while_pruning_beats_pruning_at_once():
    """Teacher and student: mv lands exactly on 70 % and recovers what one-shot pruning loses."""
    values = {"widths": (16, 32, 8), "sparsity": 0.7, "saliency": "platon"}
    toy = Toy(**values)
    toy.pruner = MomentumVariancePruner(
        [Prunable(name, w) for name, w in toy.weights.items()], toy.settings, 400
    )
    toy.run(400)
    toy.pruner.finish()
    assert toy.pruner.sparsity == pytest.approx(0.7, abs=1 / toy.pruner.units)
    once = copy.deepcopy(toy.teacher)
    sizes = torch.cat([once[i].weight.detach().abs().reshape(-1) for i in (0, 2)])
    threshold = sizes.sort().values[round(0.7 * len(sizes))]
    for i in (0, 2):
        once[i].weight.data[once[i].weight.abs() < threshold] = 0
    x = torch.randn(2000, 16)
    with torch.no_grad():
        lost = float((once(x) - toy.teacher(x)).square().mean())
        kept = float((toy.net(x) - toy.teacher(x)).square().mean())
    assert kept < 0.5 * lost
