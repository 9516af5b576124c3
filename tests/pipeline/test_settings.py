"""What holds for all settings: a number that is not finite is none."""

import importlib
import inspect
import math
import pkgutil
from collections.abc import Iterator

import pytest
from pydantic import BaseModel, ValidationError

import edgeprune
from edgeprune.base.settings import Settings
from edgeprune.pipeline.recipe import validate


def every_model() -> Iterator[type[BaseModel]]:
    """The classes of all files of settings, the recipe's, and those of sampling."""
    for module in pkgutil.walk_packages(edgeprune.__path__, "edgeprune."):
        name = module.name.rpartition(".")[2]
        if name.endswith("settings") or name in ("recipe", "generate"):
            found = importlib.import_module(module.name)
            for _, kind in inspect.getmembers(found, inspect.isclass):
                if issubclass(kind, BaseModel) and kind.__module__ == module.name:
                    yield kind


NUMBERS = [
    (kind, name)
    for kind in every_model()
    for name, field in kind.model_fields.items()
    if "float" in str(field.annotation) or "int" in str(field.annotation)
]


def test_all_settings_are_of_one_kind():
    assert all(issubclass(kind, Settings) for kind in every_model())
    assert len(NUMBERS) > 100


@pytest.mark.parametrize(
    ("kind", "name"), NUMBERS, ids=lambda part: getattr(part, "__name__", part)
)
def test_a_number_is_finite(kind, name):
    for value in (math.inf, -math.inf, math.nan):
        with pytest.raises(ValidationError) as error:
            kind.model_validate({name: value})
        assert (name,) in {each["loc"][:1] for each in error.value.errors()}


def test_layers_are_a_count_or_a_share():
    assert validate({"cut": {"layers": 2}}, "here").cut.layers_to_drop(12) == 2
    assert validate({"cut": {"layers": 0.25}}, "here").cut.layers_to_drop(12) == 3
