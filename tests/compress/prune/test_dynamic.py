"""The prune stage on tiny models: what the Fisher probe moves, and what it must not."""

import itertools
from pathlib import Path

import numpy as np
import pytest
import torch
from prospects import build_of
from tiny_builds import model_folder, text_file
from tiny_models import VOCABULARY, make_model

from edgeprune.base.errors import UserError
from edgeprune.compress.calibrate.gates import CHANNELS, HEADS, applied, make_gates
from edgeprune.compress.prune.controller import MomentumVariancePruner, Prunable
from edgeprune.compress.prune.dynamic import make_probe, prune
from edgeprune.compress.prune.settings import PruneSettings
from edgeprune.compress.prune.train_settings import PruneStageSettings
from edgeprune.model.checkpoint import open_checkpoint
from edgeprune.model.forward import tensors
from edgeprune.model.importing import import_checkpoint
from edgeprune.model.model import Model
from edgeprune.pipeline.checks import check
from edgeprune.pipeline.recipe import validate
from edgeprune.text.batches import Batch
from edgeprune.text.settings import TextSettings
from edgeprune.text.text import open_text


def make_batch(rows: int, seed: int = 0) -> Batch:
    ids = np.random.default_rng(seed).integers(5, VOCABULARY, (rows, 8))
    return Batch(ids, np.ones_like(ids), None)


def trained(family: str, folder: Path, probe: float, **values) -> tuple[torch.Tensor, float]:
    """All weights after a few steps of pruning towards another model, and the held-out loss."""
    student = make_model(family, folder / "s", unequal=False, seed=1)
    original = make_model(family, folder / "o", unequal=False, seed=2)
    settings = PruneStageSettings(
        steps=8, updates=4, learning_rate=1e-3, precision="float32", probe=probe, **values
    )
    batches = itertools.cycle([make_batch(4, seed) for seed in range(3)])
    _, record = prune(student, original, batches, [make_batch(4, 9)], settings, seed=0)
    weights = torch.cat([p.detach().flatten() for p in student.module.parameters()])
    return weights, record["held_out"]


@pytest.mark.parametrize("family", ["bert", "classifier", "llama"])
@pytest.mark.parametrize("pattern", ["weights", "4x1", "channels+heads"])
def test_with_nothing_pruned_the_probe_changes_no_weight(family, pattern, tmp_path):
    values = {"pattern": pattern, "sparsity": 0.0, "head_sparsity": 0.0}
    with_probe, without = (
        trained(family, tmp_path / str(probe), probe, **values) for probe in (1.0, 0.0)
    )
    assert torch.equal(with_probe[0], without[0])
    assert with_probe[1] == without[1]


def squared_norms(model: Model, rows: int, draws: int) -> np.ndarray:
    """Of the probe's gradient over all gates [draws], on four texts repeated to `rows`."""
    gates = [gate for kind in (CHANNELS, HEADS) for gate in make_gates(model, kind)]
    probe = make_probe(model, [gate.value for gate in gates], 1.0, seed=rows)
    four = make_batch(4)
    ids = np.tile(four.input_ids, (rows // 4, 1))
    batch = Batch(ids, np.ones_like(ids), None)
    found = []
    with applied(model, gates):
        for _ in range(draws):
            gradients = probe(model.module(**tensors(batch)), batch)
            found.append(sum(float(g.double().square().sum()) for g in gradients.values()))
    return np.array(found)


@pytest.mark.parametrize("family", ["bert", "classifier"])
def test_the_probes_norm_does_not_drift_with_the_batch(family, tmp_path):
    """The expected square is the same for every number of texts: within five standard errors."""
    model = make_model(family, tmp_path, unequal=False)
    few, some, many = (squared_norms(model, rows, draws=150) for rows in (4, 16, 64))
    for more in (some, many):
        error = np.sqrt((few.var() + more.var()) / len(few))
        assert abs(more.mean() - few.mean()) < 5 * error
        assert few.mean() > 10 * error  # so that a drift would show


@pytest.mark.parametrize("share", [0.6, 0.7, 0.8, 0.88, 0.95])
@pytest.mark.parametrize("family", ["bert", "llama"])
def test_the_dry_run_refuses_what_the_pruner_refuses(family, share, tmp_path):
    folder = model_folder(tmp_path / "model", family)
    checkpoint = open_checkpoint(str(folder))
    settings = {"sparsity": 0.5, "head_sparsity": share, "max_layer_sparsity": share}
    recipe = {"prune": settings, "cut": {}, "text": {"max_tokens": 16}, "measure": {"tokens": 12}}
    _, heads = PruneSettings(**settings).pools()
    gates = make_gates(import_checkpoint(checkpoint), HEADS)
    prunables = [Prunable(gate.name, gate.value, groups=gate.groups) for gate in gates]

    def refuses(function, *given):
        try:
            function(*given)
        except UserError as error:
            return str(error).endswith(("ask for less.", "lower the sparsity."))
        return False

    data = TextSettings(data=str(text_file(tmp_path / "text.txt")))
    text = open_text(data, "sentences", 0)
    asked = validate(recipe, "r")
    assert refuses(check, asked, build_of(asked, checkpoint, text).context) == refuses(
        MomentumVariancePruner, prunables, heads, 30
    )
