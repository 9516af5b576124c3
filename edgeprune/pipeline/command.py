"""The command that repeats a build, from its recipe: of one that ships only what was changed."""

import json
import shlex
from collections.abc import Iterator
from typing import Any

from edgeprune.base.places import called
from edgeprune.pipeline.build import Build
from edgeprune.pipeline.recipe import Recipe, read_recipe, shipped

_OWN_OPTIONS = ("name", "description", "model")


def command_of(build: Build) -> str:
    """The command, without the places of this machine; of a recipe of the user's it reads
    recipe.yaml, as which the report's page has it.

    A list or a section in braces is JSON, which is YAML.
    """
    recipe, model = build.recipe, build.context.checkpoint.name
    known = recipe.name in shipped()
    words = ["edgeprune", "build", recipe.name if known else "recipe.yaml"]
    base = read_recipe(recipe.name) if known else recipe
    if model != base.model:
        words += ["--model", called(model)]
    if recipe.text.data != base.text.data or not known:
        words += [word for each in recipe.text.data for word in ("--data", called(each))]
    for key, value in _changes(base, recipe):
        words += ["--set", f"{key}={value}"]
    return shlex.join(words)


def _changes(base: Recipe, recipe: Recipe) -> Iterator[tuple[str, str]]:
    """Every setting that differs, as --set takes it."""
    before, after = (each.model_dump(mode="json") for each in (base, recipe))
    for content in (before, after):
        content["text"].pop("data")
        for name in _OWN_OPTIONS:
            content.pop(name)
    yield from _differences(before, after, "")


def _differences(before: Any, after: Any, path: str) -> Iterator[tuple[str, str]]:
    for key, value in after.items():
        was = before.get(key)
        if value == was:
            continue
        if isinstance(value, dict) and isinstance(was, dict) and value.keys() >= was.keys():
            yield from _differences(was, value, f"{path}{key}.")
        elif value is None and isinstance(was, dict):
            yield f"{path}{key}", "off"
        else:
            yield f"{path}{key}", json.dumps(value, ensure_ascii=False)
