"""Builds that are only asked what they would do."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

from edgeprune.compress.context import Context
from edgeprune.compress.facts import Facts
from edgeprune.model.checkpoint import Checkpoint
from edgeprune.pipeline.build import Build
from edgeprune.pipeline.recipe import Recipe
from edgeprune.targets import find


def build_of(recipe: Recipe, checkpoint: Checkpoint, text: Any = None) -> Build:
    """A build that was not checked; without a text, of one that has a line alone."""
    text = text or SimpleNamespace(line="a text")
    target = find(recipe.target)
    return Build(recipe, Context(checkpoint, text, target, recipe.settings, Path("out")))


def facts_of(recipe: Recipe, checkpoint: Any) -> Facts:
    """What is known before the first stage."""
    text: Any = SimpleNamespace(line="a text")
    return Facts.of(checkpoint, text, find(recipe.target), recipe.settings)


def left_by(recipe: Recipe, checkpoint: Any) -> Facts:
    """What is known after the last stage."""
    facts = facts_of(recipe, checkpoint)
    for stage in recipe.stages:
        facts = stage.leaves(recipe.settings.get(stage.name), facts)
    return facts
