"""The training loop: objectives against scipy and closed forms, held masks, the best checkpoint."""

import itertools
import math

import numpy as np
import pytest
import torch
from scipy.special import log_softmax, rel_entr, softmax
from tiny_models import VOCABULARY, make_model

from edgeprune.base.errors import UserError
from edgeprune.compress.distil.course import learning_rate
from edgeprune.compress.distil.settings import TrainSettings
from edgeprune.compress.distil.train import (
    Gradients,
    HeldMasks,
    distil,
    held_out_loss,
)
from edgeprune.compress.objectives.embedding import embed
from edgeprune.compress.objectives.logits import divergence
from edgeprune.compress.objectives.objective import objective_of
from edgeprune.compress.recover.settings import RecoverSettings
from edgeprune.model.forward import tensors
from edgeprune.model.model import Model
from edgeprune.model.pooling import Pooling
from edgeprune.model.store import load_model, save_model
from edgeprune.text.batches import Batch

QUIET = {"precision": "float32", "learning_rate": 1e-3}


def make_batches(task: str, count: int = 3, seed: int = 0) -> list[Batch]:
    rng = np.random.default_rng(seed)
    made = []
    for _ in range(count):
        ids = rng.integers(5, VOCABULARY, (4, 8))
        mask = np.ones_like(ids)
        if task != "text-generation":
            mask[1, 5:] = mask[2, 3:] = 0
        labels = rng.integers(0, 3, 4) if task == "text-classification" else None
        made.append(Batch(np.where(mask == 1, ids, 1), mask, labels))
    return made


@pytest.fixture(scope="module", params=["bert", "classifier", "llama"])
def pair(request, tmp_path_factory) -> tuple[Model, Model]:
    """Two different models of a task: a student and its original."""
    folder = tmp_path_factory.mktemp(request.param)
    return (
        make_model(request.param, folder / "s", unequal=False, seed=1),
        make_model(request.param, folder / "o", unequal=False, seed=2),
    )


@pytest.fixture
def student(tmp_path) -> Model:
    return make_model("bert", tmp_path / "student", unequal=False, seed=1)


@pytest.fixture
def original(tmp_path) -> Model:
    return make_model("bert", tmp_path / "original", unequal=False, seed=2)


# objectives ------------------------------------------------------------------------------------


@torch.no_grad()
def test_the_objective_is_zero_where_student_and_original_agree(pair):
    student, original = pair
    settings = TrainSettings(temperature=2.0)
    objective = objective_of(student)
    for batch in make_batches(student.task):
        kept = tensors(batch)
        runs = [m.module(**kept, output_hidden_states=True) for m in (student, original)]
        same, other = (float(objective.loss(runs[0], run, batch, settings)) for run in runs)
        assert same == pytest.approx(0, abs=1e-4)
        assert other > 0.01


@torch.no_grad()
def test_the_objective_is_its_formula(pair):
    """Recomputed in numpy from the definitions; label_weight counts for labels and next tokens."""
    student = pair[0]
    settings = TrainSettings(temperature=1.7, label_weight=0.3, hidden_weight=0.4)
    batch = make_batches(student.task)[0]
    kept = tensors(batch)
    mine, its = (m.module(**kept, output_hidden_states=True) for m in pair)
    got = float(objective_of(student).loss(mine, its, batch, settings))
    mask = batch.attention_mask.astype(bool)

    hidden = sum(
        ((a.double().numpy() - b.double().numpy())[mask] ** 2).mean()
        for a, b in zip(mine.hidden_states[1:], its.hidden_states[1:], strict=True)
    )
    if student.task == "feature-extraction":
        ours, theirs = (
            np.stack([h[m].mean(0) for h, m in zip(o[0].double().numpy(), mask, strict=True)])
            for o in (mine, its)
        )
        ours, theirs = (e / np.linalg.norm(e, axis=1, keepdims=True) for e in (ours, theirs))
        expected = 10 * (1 - (ours * theirs).sum(1)).mean()
        expected += 50 * ((ours @ ours.T - theirs @ theirs.T) ** 2).mean() + 0.4 * hidden
    else:
        a, b = (o.logits.double().numpy() for o in (mine, its))
        kl = rel_entr(softmax(b / 1.7, -1), softmax(a / 1.7, -1)).sum(-1).mean()
        if student.task == "text-classification":
            label = -log_softmax(a, -1)[np.arange(4), batch.labels].mean()
            expected = 1.7**2 * kl + 0.3 * label + 0.4 * hidden
        else:
            target = batch.input_ids[:, 1:, None]
            label = -np.take_along_axis(log_softmax(a, -1)[:, :-1], target, -1).mean()
            expected = 1.7**2 * kl + 0.3 * label
    assert got == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 4.0])
def test_divergence_is_kl_of_the_original_from_the_student(temperature):
    generator = torch.Generator().manual_seed(0)
    mine, its = (torch.randn(3, 5, 7, generator=generator) * 3 for _ in range(2))
    p, q = (torch.distributions.Categorical(logits=t / temperature) for t in (its, mine))
    expected = temperature**2 * torch.distributions.kl_divergence(p, q).mean()
    torch.testing.assert_close(divergence(mine, its, temperature), expected)
    swapped = temperature**2 * torch.distributions.kl_divergence(q, p).mean()
    assert abs(float(expected - swapped)) > 1e-3


@pytest.mark.parametrize("mode", ["mean", "cls", "max", "lasttoken"])
@torch.no_grad()
def test_an_embedding_does_not_see_padding(mode, student):
    short = Batch(np.array([[5, 6, 7]]), np.ones((1, 3), np.int64))
    long = Batch(np.array([[5, 6, 7, 1, 1]]), np.array([[1, 1, 1, 0, 0]]))
    alone, padded = (
        embed(student.module(**tensors(b)), torch.from_numpy(b.attention_mask), Pooling((mode,)))
        for b in (short, long)
    )
    hidden = student.module(**tensors(short)).last_hidden_state[0]
    ways = {
        "mean": hidden.mean(0),
        "cls": hidden[0],
        "max": hidden.amax(0),
        "lasttoken": hidden[-1],
    }
    expected = ways[mode]
    torch.testing.assert_close(alone[0], expected / expected.norm())
    torch.testing.assert_close(alone, padded, rtol=0, atol=1e-5)
    assert float(alone.norm()) == pytest.approx(1)


# schedule --------------------------------------------------------------------------------------


@pytest.mark.parametrize(("steps", "warmup"), [(100, 0.1), (37, 0.0), (1, 0.5), (10, 0.99)])
def test_the_learning_rate_is_a_line_and_a_half_cosine(steps, warmup):
    settings = TrainSettings(steps=steps, warmup=warmup, learning_rate=0.01)
    warm = max(1, round(warmup * steps))
    rates = [learning_rate(step, settings) for step in range(1, steps + 1)]
    for step, rate in enumerate(rates, start=1):
        if step <= warm:
            expected = 0.01 * step / warm
        else:
            # cos^2 of half the angle is the other form of the half cosine.
            expected = 0.01 * math.cos(math.pi / 2 * (step - warm) / (steps - warm)) ** 2
        assert rate == pytest.approx(expected, abs=1e-12)
    assert max(rates) == rates[warm - 1] == pytest.approx(0.01)
    if warm < steps:
        assert rates[-1] == pytest.approx(0, abs=1e-12)


# the loop --------------------------------------------------------------------------------------


def run(student: Model, original: Model, settings: TrainSettings, **more):
    batches = itertools.cycle(make_batches(student.task))
    held = make_batches(student.task, 2, seed=9)
    return distil(student, original, batches, held, settings, "recovery", **more)


def test_distillation_approaches_the_original(pair, tmp_path):
    student, original = pair
    save_model(student, tmp_path)
    copy = load_model(tmp_path)
    settings = TrainSettings(steps=40, checks=2, train_embeddings=True, **QUIET)
    held = make_batches(student.task, 2, seed=9)
    objective = objective_of(copy)
    before = held_out_loss(copy, original, held, objective, settings)
    result = run(copy, original, settings)
    assert result["held_out"] < before
    # The reported loss is that of the weights that were left.
    left = held_out_loss(copy, original, held, objective, settings)
    assert left == pytest.approx(result["held_out"], rel=1e-5)
    assert [row["step"] for row in result["checks"]] == [20, 40]


def test_the_held_out_loss_weighs_batches_by_their_sequences(pair):
    student, original = pair
    # The other two parts are no means over sequences.
    settings = TrainSettings(hidden_weight=0, similarity_weight=0)
    objective = objective_of(student)
    (whole,) = make_batches(student.task, 1)
    parts = [
        Batch(
            whole.input_ids[rows],
            whole.attention_mask[rows],
            None if whole.labels is None else whole.labels[rows],
        )
        for rows in (slice(0, 1), slice(1, None))
    ]
    one = held_out_loss(student, original, [whole], objective, settings)
    two = held_out_loss(student, original, parts, objective, settings)
    assert one == pytest.approx(two, rel=1e-4)


@pytest.mark.parametrize("trained", [False, True])
def test_embedding_tables_are_trained_only_where_asked(student, original, trained):
    tables = {
        name: student.module.get_submodule(name).weight.detach().clone()
        for name in student.anatomy.embeddings.values()
    }
    up = student.anatomy.blocks[0].feed_forward.up
    before = student.linear(up).weight.detach().clone()
    run(student, original, TrainSettings(steps=3, train_embeddings=trained, **QUIET))
    for name, table in tables.items():
        changed = not torch.equal(student.module.get_submodule(name).weight, table)
        assert changed == trained, name
    assert not torch.equal(student.linear(up).weight, before)


def test_a_tied_head_is_frozen_with_its_table(tmp_path):
    student, original = (make_model("llama", tmp_path / n, seed=i) for i, n in enumerate("so"))
    table = student.module.model.embed_tokens.weight
    before = table.detach().clone()
    run(student, original, TrainSettings(steps=2, **QUIET))
    torch.testing.assert_close(table, before, rtol=0, atol=0)
    assert student.module.lm_head.weight is student.module.model.embed_tokens.weight


def test_held_masks_stay_exactly_zero_under_weight_decay_and_momentum(student, original):
    names = list(student.anatomy.block_linears())[:5]
    masks = {}
    for index, name in enumerate(names):
        weight = student.linear(name).weight
        mask = torch.rand(weight.shape, generator=torch.Generator().manual_seed(index)) > 0.5
        with torch.no_grad():
            weight.mul_(mask)
        masks[name] = mask.to(torch.uint8)
    before = {name: student.linear(name).weight.detach().clone() for name in names}
    settings = TrainSettings(steps=6, weight_decay=0.3, **QUIET)
    run(student, original, settings, watchers=[HeldMasks(student, masks)])
    for name, mask in masks.items():
        weight = student.linear(name).weight
        assert not weight[mask == 0].any()
        assert (weight != before[name])[mask == 1].any()


class Planter:
    """Makes the weights the original's own after one step, and spoils them after it."""

    def __init__(self, student: Model, original: Model, at: int) -> None:
        self.student, self.original, self.at, self.step = student, original, at, 0

    def observe(self, probed: Gradients) -> bool:
        return True

    @torch.no_grad()
    def after_step(self, optimizer: torch.optim.Optimizer) -> None:
        self.step += 1
        theirs = dict(self.original.module.named_parameters())
        for name, parameter in self.student.module.named_parameters():
            parameter.copy_(theirs[name])
            if self.step != self.at and parameter.ndim > 1:
                parameter.add_(0.05 * self.step)


def test_the_best_checkpoint_is_kept(student, original):
    settings = TrainSettings(steps=8, checks=8, train_embeddings=True, **QUIET)
    result = run(student, original, settings, watchers=[Planter(student, original, at=3)])
    assert result["best_step"] == 3
    assert result["held_out"] == pytest.approx(0, abs=1e-4)
    assert result["held_out"] == min(row["held_out"] for row in result["checks"])
    for mine, its in zip(student.module.parameters(), original.module.parameters(), strict=True):
        torch.testing.assert_close(mine, its, rtol=0, atol=0)


def test_checkpoints_before_best_from_are_not_chosen(student, original):
    settings = TrainSettings(steps=8, checks=8, train_embeddings=True, **QUIET)
    planter = Planter(student, original, at=3)
    result = run(student, original, settings, watchers=[planter], best_from=6)
    later = [row for row in result["checks"] if row["step"] >= 6]
    best = min(later, key=lambda row: row["held_out"])
    assert (result["best_step"], result["held_out"]) == (best["step"], best["held_out"])
    assert result["best_step"] >= 6


def test_the_last_step_is_always_checked(student, original):
    result = run(student, original, TrainSettings(steps=7, checks=2, **QUIET))
    assert [row["step"] for row in result["checks"]] == [3, 6, 7]


class Refuses:
    """A watcher that finds every gradient wanting."""

    def observe(self, probed: Gradients) -> bool:
        return False

    def after_step(self, optimizer: torch.optim.Optimizer) -> None:
        pass


def test_a_refused_step_changes_nothing(student, original):
    before = {n: p.detach().clone() for n, p in student.module.named_parameters()}
    run(student, original, TrainSettings(steps=2, **QUIET), watchers=[Refuses()])
    for name, parameter in student.module.named_parameters():
        torch.testing.assert_close(parameter, before[name], rtol=0, atol=0)


class Spoiler(Refuses):
    """Makes a weight NaN after one step."""

    def __init__(self, student: Model, at: int) -> None:
        self.weight = student.linear(student.anatomy.blocks[0].feed_forward.up).weight
        self.at, self.step = at, 0

    @torch.no_grad()
    def after_step(self, optimizer: torch.optim.Optimizer) -> None:
        self.step += 1
        if self.step == self.at:
            self.weight.fill_(math.nan)


def test_a_loss_that_is_not_finite_stops_and_says_where(student, original):
    settings = TrainSettings(steps=9, checks=1, **QUIET)
    with pytest.raises(UserError, match=r"loss of recovery is nan at step 4 of 9; .*learning_rate"):
        run(student, original, settings, watchers=[Spoiler(student, at=3)])


def test_a_last_step_that_spoils_the_weights_is_noticed(student, original):
    settings = TrainSettings(steps=2, checks=1, **QUIET)
    with pytest.raises(UserError, match=r"held-out loss of recovery is nan at step 2 of 2"):
        run(student, original, settings, watchers=[Spoiler(student, at=2)])


class Listener(Refuses):
    """A watcher that keeps what it is told beside the gradients."""

    def observe(self, probed: Gradients) -> bool:
        self.probed = probed
        return True


def test_watchers_hear_the_probe_and_weights_do_not(original, tmp_path):
    weights, listener = [], Listener()
    for number, heard in enumerate((False, True)):
        student = make_model("bert", tmp_path / str(number), unequal=False, seed=1)
        asked = student.linear(student.anatomy.blocks[0].feed_forward.up).weight

        def probe(output, batch, asked=asked):
            loss = output.last_hidden_state.square().mean()
            return {asked: torch.autograd.grad(loss, asked)[0]}

        settings = TrainSettings(steps=1, **QUIET)
        own = torch.autograd.grad(
            student.module(**tensors(make_batches(student.task)[0]))
            .last_hidden_state.square()
            .mean(),
            asked,
        )
        run(student, original, settings, watchers=[listener], probe=probe if heard else None)
        weights.append(torch.cat([p.detach().flatten() for p in student.module.parameters()]))
    torch.testing.assert_close(listener.probed[asked], *own)
    assert torch.equal(*weights)


def test_the_same_batches_give_the_same_weights(original, tmp_path):
    found = []
    for number, first in enumerate((0, 0, 1)):
        student = make_model("bert", tmp_path / str(number), unequal=False, seed=1)
        batches = make_batches(student.task)[first:]
        settings = TrainSettings(steps=4, **QUIET)
        held = make_batches(student.task, 1, seed=9)
        distil(student, original, itertools.cycle(batches), held, settings, "recovery")
        found.append(torch.cat([p.detach().flatten() for p in student.module.parameters()]))
    assert torch.equal(found[0], found[1])
    assert not torch.equal(found[0], found[2])


def test_the_original_is_never_changed(student, original):
    before = {n: t.clone() for n, t in original.module.state_dict().items()}
    run(student, original, TrainSettings(steps=2, train_embeddings=True, **QUIET))
    for name, tensor in original.module.state_dict().items():
        assert torch.equal(tensor, before[name])


def test_recovery_settings_are_training_settings():
    own = RecoverSettings().model_dump()
    assert {**own, **TrainSettings().model_dump()} == own


def test_bfloat16_stays_close_to_float32(student, original):
    losses = []
    for wanted in ("float32", "bfloat16"):
        settings = TrainSettings(precision=wanted)
        objective = objective_of(student)
        held = make_batches(student.task, 1)
        losses.append(held_out_loss(student, original, held, objective, settings))
    assert losses[1] == pytest.approx(losses[0], rel=0.03)
    assert losses[1] != losses[0]
