"""Search: exact budgets, planted optima, interruption, and what reaches a model."""

import itertools
import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st
from prospects import facts_of
from scipy.special import rel_entr, softmax
from tiny_models import make_batch, make_model

from edgeprune.base.errors import UserError
from edgeprune.compress.calibrate.walk import Walk
from edgeprune.compress.cut import block_search
from edgeprune.compress.cut import stage as cut_stage
from edgeprune.compress.cut.block_search import search_blocks, skippable
from edgeprune.compress.cut.row import CUT
from edgeprune.compress.cut.settings import CutSettings
from edgeprune.compress.levels.candidates import Candidates
from edgeprune.compress.levels.evolution import search
from edgeprune.compress.levels.judge import scorer
from edgeprune.compress.levels.settings import Evolution
from edgeprune.compress.levels.spaces import Drops, Levels
from edgeprune.compress.objectives.logits import divergence_from
from edgeprune.compress.prune.allocate import uniform_counts
from edgeprune.compress.prune.level_search import run, search_levels, solver
from edgeprune.compress.prune.oneshot import prune_layers
from edgeprune.compress.prune.search_settings import SearchSettings
from edgeprune.model.checkpoint import open_checkpoint
from edgeprune.model.forward import tensors
from edgeprune.model.importing import import_checkpoint
from edgeprune.model.model import Model
from edgeprune.model.store import load_masks, load_model, save_model
from edgeprune.pipeline.recipe import Recipe, validate
from edgeprune.text.batches import Batch

STRATEGIES = ("evopress", "evop")


def batches_of(count: int = 4, first: int = 0) -> list[Batch]:
    made = [make_batch(rows=3, tokens=9, seed=first + i) for i in range(count)]
    return [Batch(b["input_ids"].numpy(), b["attention_mask"].numpy()) for b in made]


# spaces ----------------------------------------------------------------------------------------


@settings(max_examples=40)
@given(st.integers(0, 10**6), st.integers(1, 9), st.integers(1, 4), st.integers(1, 20))
def test_levels_never_leave_the_budget(seed, linears, most, step):
    rng = np.random.default_rng(seed)
    sizes = rng.integers(2, 100, linears).tolist()
    base = [int(rng.integers(0, size)) for size in sizes]
    space = Levels(base, sizes, step, most)
    genomes = [space.start()]
    for _ in range(60):
        one, other = (genomes[int(rng.integers(len(genomes)))] for _ in range(2))
        genomes += [space.mutate(one, rng), space.cross(one, other, rng)]
    for genome in genomes:
        counts = space.counts(genome)
        assert sum(genome) == 0
        assert sum(counts) == sum(base)
        assert all(0 <= count < size for count, size in zip(counts, sizes, strict=True))
        assert max(map(abs, genome)) <= most


@settings(max_examples=40)
@given(st.integers(0, 10**6), st.integers(2, 12), st.data())
def test_drops_never_leave_the_budget(seed, parts, data):
    count = data.draw(st.integers(0, parts - 1))
    space = Drops(parts, count, frozenset([0]))
    rng = np.random.default_rng(seed)
    genomes = [space.start()]
    for _ in range(60):
        one, other = (genomes[int(rng.integers(len(genomes)))] for _ in range(2))
        child = space.cross(one, other, rng)
        assert all(c for c, a, b in zip(child, one, other, strict=True) if a and b)
        assert not any(c for c, a, b in zip(child, one, other, strict=True) if not (a or b))
        genomes += [space.mutate(one, rng), child]
    for genome in genomes:
        assert sum(genome) == count
        assert not genome[0]
        assert set(genome) <= {0, 1}


def test_every_level_can_be_reached():
    space = Levels([5, 5, 5], [10, 10, 10], 2, 2)
    rng, seen, genome = np.random.default_rng(0), set(), space.start()
    for _ in range(3000):
        genome = space.mutate(genome, rng)
        seen.add(genome)
    every = {g for g in itertools.product(range(-2, 3), repeat=3) if sum(g) == 0}
    assert seen == every


# the search ------------------------------------------------------------------------------------


class Planted:
    """Distances in which one linear is ten times as sensitive as the others, with text noise."""

    def __init__(self, noise: float = 0.0) -> None:
        self.cost = np.array([1.0, 10.0, 1.0, 1.0, 2.0])
        self.space = Levels([50] * 5, [100] * 5, 5, 3)
        self.noise = noise
        self.calls: list[tuple[int, int]] = []

    def true(self, genome) -> float:
        return float((self.cost * np.exp(0.4 * np.array(genome))).sum())

    def score(self, genomes, chosen) -> list[float]:
        self.calls.append((len(genomes), len(chosen)))
        return [
            self.true(g)
            + self.noise
            * np.mean(
                [np.random.default_rng([hash(g) % 2**31, t]).standard_normal() for t in chosen]
            )
            for g in genomes
        ]

    def best(self) -> float:
        every = itertools.product(range(-3, 4), repeat=5)
        return min(self.true(g) for g in every if sum(g) == 0)


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_planted_optimum_is_found(strategy):
    """Against the best of all genomes; the sensitive linear keeps most."""
    problem = Planted()
    chosen = Evolution(strategy=strategy, evaluations=3000)
    state = search(problem.space, problem.score, 8, chosen, 0)
    genome = state.members[0][0]
    assert problem.true(genome) <= 1.02 * problem.best()
    assert genome[1] == -3


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_noise_does_not_lead_astray(strategy):
    problem = Planted(noise=1.0)
    chosen = Evolution(strategy=strategy, evaluations=3000)
    found = search(problem.space, problem.score, 50, chosen, 0).members[0][0]
    assert problem.true(found) < 0.75 * problem.true(problem.space.start())


@settings(max_examples=40)
@given(
    st.sampled_from(STRATEGIES),
    st.integers(0, 400),
    st.integers(1, 9),
    st.integers(1, 9),
    st.integers(1, 5),
    st.integers(1, 5),
)
def test_the_budget_is_kept(strategy, evaluations, offspring, survivors, texts, there):
    problem = Planted()
    if strategy == "evop" and offspring < 3:
        with pytest.raises(ValueError, match="offspring must be 3 or more"):
            Evolution(strategy=strategy, offspring=offspring)
        return
    chosen = Evolution(
        strategy=strategy, evaluations=evaluations, offspring=offspring, survivors=survivors,
        texts=texts,
    )  # fmt: skip
    state = search(problem.space, problem.score, there, chosen, 0)
    assert state.spent == sum(genomes * batches for genomes, batches in problem.calls)
    assert state.spent <= evaluations
    assert sum(state.members[0][0]) == 0
    assert all(batches <= there for _, batches in problem.calls)


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_without_offspring_nothing_changes(strategy):
    problem = Planted()
    state = search(problem.space, problem.score, 4, Evolution(strategy=strategy, offspring=0), 0)
    assert state.members[0][0] == problem.space.start()
    assert not problem.calls


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_on_fixed_text_the_best_never_gets_worse(strategy):
    problem = Planted()
    chosen = Evolution(strategy=strategy, evaluations=2000, texts=4)
    history = search(problem.space, problem.score, 4, chosen, 3).history
    assert len(history) > 10
    assert all(later <= earlier for earlier, later in itertools.pairwise(history))


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_an_interrupted_search_goes_on_as_if_it_had_not_been(strategy, tmp_path):
    chosen = Evolution(strategy=strategy, evaluations=900)
    whole = search(Planted(1).space, Planted(1).score, 9, chosen, 5)
    problem, file = Planted(1), tmp_path / "search.json"

    def killed(genomes, texts):
        if len(problem.calls) == 13:
            raise KeyboardInterrupt
        return problem.score(genomes, texts)

    with pytest.raises(KeyboardInterrupt):
        search(problem.space, killed, 9, chosen, 5, file, "this")
    spent = json.loads(file.read_text())["spent"]
    assert 0 < spent < whole.spent
    later = Planted(1)
    again = search(later.space, later.score, 9, chosen, 5, file, "this")
    assert again == whole
    assert again.earlier > 0 == whole.earlier
    assert sum(a * b for a, b in later.calls) == whole.spent - spent
    other = Planted(1)
    search(other.space, other.score, 9, chosen, 5, file, "another model")
    assert sum(a * b for a, b in other.calls) == whole.spent  # that state is not for it


def test_drops_are_searched_too():
    damage = np.array([9, 5, 1, 7, 0.5, 3, 2, 8])
    space = Drops(8, 3, frozenset([0]))
    for strategy in STRATEGIES:
        chosen = Evolution(strategy=strategy, evaluations=600)
        state = search(space, lambda gs, _t: [float(damage @ g) for g in gs], 4, chosen, 1)
        assert state.members[0][0] == (0, 0, 1, 0, 1, 0, 1, 0)


# models ----------------------------------------------------------------------------------------


def distance(model: Model, original: Model, batches: list[Batch]) -> float:
    """KL of tokens for a decoder, in nats."""
    total, rows = 0.0, 0
    for batch in batches:
        with torch.no_grad():
            ours, its = (
                m.module(**tensors(batch)).logits.log_softmax(-1) for m in (model, original)
            )
        total += float((its.exp() * (its - ours)).sum())
        rows += its.shape[0] * its.shape[1]
    return total / rows


def test_a_score_is_the_distance_of_the_pruned_model(tmp_path):
    """The database's weights in place, beside KL computed from pruned whole models."""
    original, model = (make_model("llama", tmp_path) for _ in range(2))
    batches = batches_of()
    chosen = SearchSettings(evaluations=0)
    names = list(model.anatomy.block_linears())
    before = {name: tensor.clone() for name, tensor in model.module.state_dict().items()}
    counts, found = search_levels(model, original, batches, batches_of(5, first=50), chosen, seed=0)
    assert counts == uniform_counts(model, "weights", 0.5)
    assert found["evaluations"] == 0
    assert found["kept"] == "start"
    for name, tensor in model.module.state_dict().items():
        assert torch.equal(tensor, before[name])
    solve = solver(chosen)
    walk = Walk(model, batches)
    pruned = make_model("llama", tmp_path)
    for block in model.anatomy.blocks:
        for name in [n for n in names if n.startswith(f"{block.name}.")]:
            gram = walk.inputs(block, name).gram
            weight = model.linear(name).weight.detach()
            values = solve(weight, gram, "weights", counts[name]).weight
            pruned.linear(name).weight.data.copy_(values.half())
        walk.advance(block)
    expected = distance(pruned, original, batches_of(5, first=50))
    assert found["unseen"]["start"] == pytest.approx(expected, rel=1e-4)


def test_a_search_finds_what_must_not_be_touched(tmp_path):
    original, model = (make_model("llama", tmp_path, unequal=False) for _ in range(2))
    for one in (original, model):  # a block that hardly says anything can lose its weights
        last = one.anatomy.blocks[1]
        for name in (last.attention.output, last.feed_forward.down):
            one.linear(name).weight.data.mul_(0.01)
    chosen = SearchSettings(evaluations=200, offspring=6, texts=2, step=0.1, max_level=4)
    counts, found = search_levels(
        model, original, batches_of(4), batches_of(8, first=50), chosen, seed=0
    )
    assert sum(counts.values()) == sum(uniform_counts(model, "weights", 0.5).values())
    assert found["kept"] == "winner"
    assert found["unseen"]["winner"] < 0.9 * found["unseen"]["start"]
    assert found["unseen"]["high"] < 0  # the whole interval
    first, second = (
        sum(c for n, c in counts.items() if n.startswith(f"{block.name}."))
        for block in model.anatomy.blocks
    )
    assert second > first


@given(st.integers(0, 10**6), st.floats(0, 3), st.sampled_from([(2, 3, 50), (7, 4)]))
def test_a_divergence_is_scipys(seed, far, shape):
    rng = np.random.default_rng(seed)
    its = 5 * rng.standard_normal(shape)
    ours = its + far * rng.standard_normal(shape)
    p, q = (softmax(logits.reshape(-1, shape[-1]), 1) for logits in (its, ours))
    expected = rel_entr(p, q).sum(1).mean()
    found = divergence_from(torch.from_numpy(its))(SimpleNamespace(logits=torch.from_numpy(ours)))
    assert found == pytest.approx(expected, rel=1e-4, abs=2e-6)


def test_a_divergence_of_a_vocabulary_is_exact_in_float32():
    logits = np.random.default_rng(0).standard_normal((4, 50_000), dtype=np.float32)
    logits[:, 5] += 14
    ours = logits + 0.1 * np.random.default_rng(1).standard_normal(logits.shape)
    p, q = (softmax(some.astype(np.float64), 1) for some in (logits, ours.astype(np.float32)))
    distance = divergence_from(torch.from_numpy(logits))
    given = SimpleNamespace(logits=torch.from_numpy(ours.astype(np.float32)))
    assert distance(given) == pytest.approx(rel_entr(p, q).sum(1).mean(), abs=2e-6)
    assert abs(distance(SimpleNamespace(logits=torch.from_numpy(logits)))) < 1e-9


@pytest.mark.parametrize("family", ["bert", "llama", "classifier"])
def test_what_candidates_share_is_computed_once_and_changes_nothing(family, tmp_path):
    original, model = (make_model(family, tmp_path, unequal=False, layers=4) for _ in range(2))
    names = [block.feed_forward.down for block in model.anatomy.blocks]
    dense = [model.linear(name).weight.detach().clone() for name in names]

    def apply(genome):
        for name, weight, level in zip(names, dense, genome, strict=True):
            model.linear(name).weight.data.copy_(weight * (1 - 0.1 * level))

    passes = []
    for name in names:
        model.linear(name).register_forward_hook(lambda *_given: passes.append(1))
    batches = batches_of(3)
    score = scorer(Candidates(model, apply, range(4)), original, batches)
    rng = np.random.default_rng(0)
    genomes = [(0, 0, 0, 0), (0, 0, 0, 1), (0, 0, 2, 1), (3, 0, 0, 0)]
    genomes += [tuple(int(level) for level in rng.integers(0, 3, 4)) for _ in range(4)]
    passes.clear()
    together = score(genomes, [0, 2])
    assert len(passes) < 2 * 4 * len(genomes)
    assert together == [score([genome], [0, 2])[0] for genome in genomes]
    assert together[0] == pytest.approx(0, abs=1e-6)
    assert all("forward" not in vars(module) for module in model.block_modules())


@pytest.mark.parametrize("family", ["bert", "llama", "classifier"])
def test_skipped_blocks_hand_on_what_they_are_given(family, tmp_path):
    original, model = (make_model(family, tmp_path) for _ in range(2))
    batches = batches_of(3)
    given = tensors(batches[0])
    with torch.no_grad():
        whole = model.module(**given)[0]
        with skippable(model, batches[0]) as skip:
            skip((0, 1))
            without = model.module(**given)[0]
            candidates = Candidates(model, skip, range(2))
            score = scorer(candidates, original, batches)([(0, 0), (0, 1)], [0, 1])
            assert score[0] == pytest.approx(0, abs=1e-5)
            assert score[1] > 1e-4
        assert torch.equal(model.module(**given)[0], whole)
        # The same with a block that adds nothing to what it is given.
        last = model.anatomy.blocks[1]
        if family == "llama":
            for name in (last.attention.output, last.feed_forward.down):
                model.linear(name).weight.data.zero_()
            torch.testing.assert_close(model.module(**given)[0], without)
    assert not torch.equal(without, whole)


def idle_llama(folder: Path) -> Model:
    """Five layers, of which the third and fourth hardly say anything."""
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=131, hidden_size=32, num_hidden_layers=5, num_attention_heads=4,
        intermediate_size=40, max_position_embeddings=96,
    )  # fmt: skip
    module = transformers.LlamaForCausalLM(config)
    for parameter in module.parameters():
        if parameter.ndim > 1:
            parameter.data.normal_(0, 0.2)
    for idle in (2, 3):
        module.model.layers[idle].self_attn.o_proj.weight.data.mul_(0.01)
        module.model.layers[idle].mlp.down_proj.weight.data.mul_(0.01)
    module.save_pretrained(folder)
    return import_checkpoint(open_checkpoint(str(folder)))


def test_the_idle_blocks_are_dropped(tmp_path):
    model, original = (idle_llama(tmp_path) for _ in range(2))
    for strategy in STRATEGIES:
        chosen = Evolution(strategy=strategy, evaluations=90, offspring=6, texts=2)
        gone, found = search_blocks(
            model, original, 2, batches_of(4), batches_of(4, first=50), chosen, 0
        )
        assert gone == [2, 3]
        assert found["unseen"]["winner"] <= found["unseen"]["start"]
    gone, _ = search_blocks(
        model, original, 2, batches_of(4), batches_of(4), chosen, 0, first=1, last=2
    )
    assert gone == [1, 2]  # the only two that may go
    for count, first, last in ((5, 0, 0), (3, 1, 2), (5, 1, 0)):
        with pytest.raises(UserError, match=f"{count} of 5 layers cannot go while {first} at"):
            search_blocks(
                model, original, count, batches_of(1), batches_of(1), chosen, 0, first, last
            )


def test_the_cut_stage_drops_what_the_search_finds(tmp_path, monkeypatch):
    """Killed half-way it goes on; masks of pruned weights follow their layers."""
    original = idle_llama(tmp_path / "hf")
    model = idle_llama(tmp_path / "hf")
    masks = {}
    for name in model.anatomy.block_linears():
        weight = model.linear(name).weight.data
        masks[name] = (torch.rand_like(weight) < 0.7).to(torch.uint8)
        weight.mul_(masks[name])
    save_model(model, tmp_path / "in", masks)

    class FakeBuild:
        seed = 0
        output: Path = tmp_path / "out"

        def calibration(self, sequences: int, together: int | None = None) -> list[Batch]:
            assert (sequences, together) == (32, 2)
            return batches_of()

        def held_out(self) -> list[Batch]:
            return batches_of(4, first=50)

    build = FakeBuild()
    build.original = original
    settings = CutSettings(
        layers=2,
        layer_score="search",
        layer_search={"evaluations": 90, "offspring": 6, "texts": 2},
    )
    file, calls = build.output / "search-layers.json", 0
    real = block_search.scorer

    def killing(*given):
        score = real(*given)

        def count(genomes, chosen):
            nonlocal calls
            calls += 1
            if calls == 4:
                raise KeyboardInterrupt
            return score(genomes, chosen)

        return count

    monkeypatch.setattr(block_search, "scorer", killing)
    with pytest.raises(KeyboardInterrupt):
        cut_stage.run(build, tmp_path / "in", tmp_path / "cut", settings)
    spent = json.loads(file.read_text())["spent"]
    assert 0 < spent < 90
    result = cut_stage.run(build, tmp_path / "in", tmp_path / "cut", settings)
    assert not file.exists()
    assert spent < result.layer_search["evaluations"] <= 90
    assert result.layers == [0, 1, 4]
    assert result.layer_search["unseen"]["batches"] == 4
    json.dumps(result.to_json())
    cut, after = load_model(tmp_path / "cut"), load_masks(tmp_path / "cut")
    assert len(cut.anatomy.blocks) == 3
    for name, mask in after.items():
        before = name.replace("layers.2.", "layers.4.")
        assert torch.equal(mask, masks[before])
        assert torch.equal(cut.linear(name).weight, model.linear(before).weight)
    assert len(after) * 5 == len(masks) * 3


def test_a_dry_run_says_what_a_search_of_layers_spends(tmp_path):
    settings = CutSettings(layers=2, layer_score="search", layer_search={"strategy": "evop"})
    model = idle_llama(tmp_path)
    [line] = CUT.would(settings, facts_of(Recipe(), model))
    assert line == (
        "2 of 5 layers leave by an evop search of 1,200 evaluations, on 32 sequences of text"
    )
    assert settings.kept_ends() == (1, 0)
    with pytest.raises(UserError, match=r"layer_search\.offsprings'; did you mean 'offspring'"):
        validate({"cut": {"layer_search": {"offsprings": 3}}}, "here")


def test_the_stage_prunes_by_what_it_found(tmp_path):
    make_model("llama", tmp_path / "in", unequal=False)

    class FakeBuild:
        seed = 0
        output: Path = tmp_path / "out"
        original = load_model(tmp_path / "in")
        checkpoint = type("Checkpoint", (), {"name": "n"})

        def calibration(self, sequences: int, together: int | None = None) -> list[Batch]:
            return batches_of()

        def held_out(self) -> list[Batch]:
            return batches_of(4, first=50)

    chosen = SearchSettings(evaluations=60, offspring=4, solver="sparsegpt", step=0.1)
    (tmp_path / "pruned").mkdir()
    result = run(FakeBuild(), tmp_path / "in", tmp_path / "pruned", chosen)
    model, masks = load_model(tmp_path / "pruned"), load_masks(tmp_path / "pruned")
    assert result["removed"] == sum(int((mask == 0).sum()) for mask in masks.values())
    assert result["removed"] == result["weights"] // 2
    json.dumps(result)
    assert not (tmp_path / "out" / "search.json").exists()
    again = load_model(tmp_path / "in")
    counts = {name: layer["removed"] for name, layer in result["layers"].items()}
    prune_layers(again, Walk(again, batches_of()), counts, "weights", solver(chosen))
    for name in masks:
        assert torch.equal(again.linear(name).weight, model.linear(name).weight)


@pytest.mark.parametrize(
    ("prune", "message"),
    [
        ({"pattern": "2:4"}, "nothing to search"),
        ({"pattern": "columns"}, "different numbers of weights: there is nothing to search"),
        ({"strategy": "evop", "offspring": 2}, "offspring must be 3 or more"),
        ({"strategy": "genetic"}, r"prune\.strategy"),
        ({"evaluation": 5}, "did you mean 'evaluations'"),
    ],
)
def test_wrong_searches_are_refused(prune, message):
    with pytest.raises(UserError, match=message):
        validate({"prune": {"method": "search", **prune}}, "here")


def test_a_step_of_nothing_is_refused(tmp_path):
    model = make_model("llama", tmp_path)
    chosen = SearchSettings(pattern="4x16", step=0.001)
    with pytest.raises(UserError, match=r"prune\.step"):
        search_levels(model, model, batches_of(1), batches_of(1), chosen, 0)
