"""The command that repeats a build: read again, it gives the same recipe."""

import shlex
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prospects import build_of
from tiny_builds import model_folder

from edgeprune.base.errors import UserError
from edgeprune.cli import main
from edgeprune.model.checkpoint import Checkpoint, open_checkpoint
from edgeprune.pipeline.command import command_of
from edgeprune.pipeline.recipe import read_recipe, shipped

CHANGES = st.sampled_from(
    [
        "seed=7",
        "cut=off",
        "recover.steps=9",
        "recover.minutes=1.5",
        "prune.sparsity=0.25",
        "quantize.weights=int4",
        "quantize.embeddings=false",
        "measure.curve=[4, 16]",
        "text.fields.label=category of mine",
        "require.drop=0.5",
        "target=arm-dotprod",
        "text.max_tokens=32",
        "sparsify.pattern=4x16",
    ]
)


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    return open_checkpoint(str(model_folder(tmp_path_factory.mktemp("my encoder"), "bert")))


@given(st.sampled_from([name for name in shipped() if "encoder" in name]), st.lists(CHANGES))
def test_the_command_repeats_the_recipe(encoder, name, changes) -> None:
    try:
        recipe = read_recipe(name, changes)
    except UserError:  # two of the changes contradict each other
        return
    program, command, *given_ = shlex.split(command_of(build_of(recipe, encoder)))
    assert (program, command) == ("edgeprune", "build")
    read = main.commands["build"].make_context("build", given_).params
    assert read["model"] == encoder.folder.name  # no place of this machine
    again = read_recipe(read["recipe"], read["overrides"])
    assert again == recipe
    assert read["data"] == ()


def test_a_recipe_of_ones_own_is_named_as_its_page_has_it(encoder, tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text("text: {data: [a.txt, b c.txt]}\nquantize: {}\n")
    command = command_of(build_of(read_recipe(str(file)), encoder))
    model = shlex.quote(encoder.folder.name)
    assert command == (f"edgeprune build recipe.yaml --model {model} --data a.txt --data 'b c.txt'")
