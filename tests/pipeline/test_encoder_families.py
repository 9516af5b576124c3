"""Encoders whose attention is their own, through every stage that holds for them, and run."""

from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from tiny_builds import RECIPE, model_folder, recipe_file, sentence_lines, text_file
from tokenizers import Tokenizer

from edgeprune.cli import main
from edgeprune.model.store import load_model
from edgeprune.runtime.bundle import Bundle
from edgeprune.runtime.embed import Embedder

# Pruned in training, one of two layers dropped, rows of the vocabulary left out, recovered.
IN_FLOATS = RECIPE.replace("cut: {}", "cut: {layers: 1, keep_first: 1}").replace(
    "quantize: {calibration_samples: 8}", "quantize: {weights: none}"
)


@pytest.mark.parametrize("family", ["modernbert", "deberta-v2"])
def test_a_bundle_answers_as_what_the_stages_left(family: str, tmp_path: Path) -> None:
    given = ["--model", model_folder(tmp_path / "hf", family)]
    given += ["--data", text_file(tmp_path / "t.txt"), "--output", tmp_path / "out"]
    file = recipe_file(tmp_path / "r.yaml", IN_FLOATS)
    built = CliRunner().invoke(main, ["build", str(file), *map(str, given)])
    assert built.exit_code == 0, built.output
    bundle = Bundle.open(tmp_path / "out/bundle")
    stages = {stage["name"]: stage for stage in bundle.manifest["stages"]}
    assert [step["name"] for step in stages["rewrite"]["passes"]] == ["emit"]
    [recovered] = (tmp_path / "out/stages").glob("*recover*")
    model = load_model(recovered)
    assert model.layers == [0]
    [attention] = model.anatomy.attentions
    assert attention.num_heads < 4
    tokenizer = Tokenizer.from_file(str(tmp_path / "out/bundle/tokenizer.json"))
    for text in sentence_lines(3, seed=9):
        ids = torch.tensor([tokenizer.encode(text).ids])
        with torch.no_grad():
            states = model.module(ids, attention_mask=torch.ones_like(ids))[0][0]
        got = Embedder(bundle).embed([text])[0]
        np.testing.assert_allclose(got, states.mean(0).numpy(), rtol=0, atol=1e-5)
