"""The recipe: which stages run with which settings. Read, checked, explained and written here.

A recipe is a YAML file. A stage that it does not name does not run; a setting that it does not
name has its default. No torch here: a dry run and `edgeprune recipes` work on a device.
"""

import difflib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Optional, Self

import yaml
from pydantic import BaseModel, Field, ValidationError, create_model, model_validator

from edgeprune.base.errors import UserError
from edgeprune.base.settings import Settings
from edgeprune.compress.prune.allocate_settings import ALLOCATORS
from edgeprune.compress.stage import Stage
from edgeprune.measure.requirements import Requirements
from edgeprune.pipeline.stages import STAGES
from edgeprune.pipeline.yaml_text import read_yaml
from edgeprune.text.settings import TextSettings

DEFAULT = "encoder"
ALIASES = {
    "minilm": "encoder",
    "minilm-int8": "encoder-int8",
    "minilm-fast": "encoder-fast",
    "minilm-sparse": "encoder-sparse",
    "smollm2": "decoder",
    "smollm2-sparse": "decoder-sparse",
}
"""Names that recipes had in earlier versions -> those that they have."""


class _Head(Settings):
    """The settings of a recipe that concern the whole build."""

    name: str = Field("custom", description="What the recipe is called.")
    description: str = Field("", description="What it does, in a sentence or two.")
    model: str | None = Field(
        None, description="A folder, a hub id, or package:NAME; --model overrides it."
    )
    seed: int = Field(0, ge=0, lt=2**32, description="The seed of everything random.")
    target: str = Field(
        "auto", description="The kind of processor to build for; auto is this machine's."
    )
    variants: tuple[str, ...] = Field(
        (),
        description="Further graphs in the bundle, as [arm64, float32]: float32, quantized (INT8 "
        "that is right on every processor and in a browser), int4, or a target's name.",
    )
    text: TextSettings = Field(TextSettings(), description="The text to learn from.")


def _section(stage: Stage) -> tuple[Any, Any]:
    """A stage's section as a field of the recipe: its type, and its default and description."""
    if stage.always:
        assert stage.default is not None
        return stage.settings, Field(stage.default(), description=stage.description)
    return Optional[stage.settings], Field(None, description=stage.description)  # noqa: UP045


SECTIONS: Mapping[str, Stage] = {stage.name: stage for stage in STAGES if stage.settings}
"""The stages that have settings in a recipe."""
if TYPE_CHECKING:

    class _Sections(_Head):
        def __getattr__(self, name: str) -> Any:
            """A stage's settings; None where the recipe leaves the stage out."""
else:
    _Sections = create_model(
        "_Sections", __base__=_Head, **{name: _section(stage) for name, stage in SECTIONS.items()}
    )


class Recipe(_Sections):
    """A whole recipe: of each stage that has settings, its section by the stage's name."""

    require: Requirements = Field(
        Requirements(), description="What must be reached; missed, the exit code is 1."
    )

    @model_validator(mode="after")
    def _stages_agree(self) -> Self:
        for name, settings in self.settings.items():
            SECTIONS[name].agree(settings, self.settings)
        return self

    @property
    def stages(self) -> list[Stage]:
        """The stages that run, in order."""
        return stages_of(self.settings)

    @property
    def settings(self) -> dict[str, Any]:
        """The settings of the stages that run, by the stage's name."""
        given = {name: getattr(self, name) for name in SECTIONS}
        return {name: settings for name, settings in given.items() if settings is not None}

    def to_yaml(self) -> str:
        """The recipe with every setting, as a file that reads back the same."""
        content = self.model_dump(mode="json")
        for stage in _section_classes():
            if content[stage] is None:
                content[stage] = "off"  # an empty stage would mean its defaults
        return yaml.safe_dump(content, sort_keys=False, allow_unicode=True)


def stages_of(settings: Mapping[str, Any]) -> list[Stage]:
    """The stages that run under settings by the stage's name, in order."""
    return [stage for stage in STAGES if stage.always or stage.name in settings]


def shipped() -> dict[str, Path]:
    """The recipes that ship, by name: from the installed package, or from the checkout."""
    here = Path(__file__).parent
    for folder in (here / "shipped", here.parents[1] / "pipelines"):
        if folder.is_dir():
            return {file.stem: file for file in sorted(folder.glob("*.yaml"))}
    return {}


def read_recipe(name: str, overrides: Sequence[str] = ()) -> Recipe:
    """Read a recipe by name or file and apply `STAGE.KEY=VALUE` overrides.

    Raises:
        UserError: there is none, it is not YAML, or a setting is unknown or out of range.
    """
    file = shipped().get(ALIASES.get(name, name), Path(name).expanduser())
    if not file.is_file():
        raise UserError(
            f"There is no recipe {name!r}{_nearest(name, shipped())} Those that ship are: "
            f"{', '.join(shipped())}; or give a YAML file."
        )
    content = read_yaml(file.read_bytes(), f"{file} is not a YAML recipe")
    if not isinstance(content, dict):
        raise UserError(f"{file} must hold settings by name, like `prune:` and `quantize:`.")
    content.setdefault("name", file.stem)
    for override in overrides:
        _apply(content, override)
    return validate(content, str(file))


def validate(content: dict[str, Any], where: str) -> Recipe:
    """Check a recipe's content.

    Raises:
        UserError: naming the first wrong setting, with the nearest right name or its range.
    """
    content = {key: _default_stage(key, value) for key, value in content.items()}
    try:
        return Recipe.model_validate(content)
    except ValidationError as error:
        raise UserError(f"{where}: {_explain_error(error.errors()[0])}") from None


def _default_stage(key: str, value: Any) -> Any:
    """`cut:` with nothing behind it means the stage with its defaults; `cut: off` leaves it out."""
    if key in Recipe.model_fields and key in _section_classes():
        if value is None:
            return {}
        if value is False or value == "off":
            return None
    return value


def _apply(content: dict[str, Any], override: str) -> None:
    path, equals, value = override.partition("=")
    if not equals or not path:
        raise UserError(f"--set {override!r} must look like STAGE.KEY=VALUE, as prune.steps=200.")
    keys = path.split(".")
    place = content
    for key in keys[:-1]:
        if place.get(key) in (None, False, "off"):
            place[key] = {}
        place = place[key]
        if not isinstance(place, dict):
            raise UserError(f"--set {override!r}: {key} has no settings of its own.")
    place[keys[-1]] = read_yaml(value, f"--set {override!r}: {value!r} is not YAML")


def _explain_error(error: Any) -> str:
    location, classes = _without_tags(error["loc"])
    path = ".".join(str(part) for part in location)
    if error["type"] == "union_tag_invalid":
        given = str(error["ctx"]["tag"])
        of_allocator = location[1:] == ("allocate",)
        key, noun, known = (
            ("by", "allocator", ALLOCATORS)
            if of_allocator
            else ("method", "method", SECTIONS[location[0]].methods or {})
        )
        return (
            f"{path}.{key}: there is no {noun} {given!r}{_nearest(given, known)} "
            f"Those that there are: {', '.join(known)}."
        )
    if error["type"] == "extra_forbidden":
        *parents, key = location
        model: Any = Recipe
        for parent in parents:
            inner = getattr(model.model_fields.get(str(parent)), "annotation", None)
            model = classes.get(str(parent), inner if isinstance(inner, type) else model)
        return f"there is no setting {path!r}{_nearest(str(key), model.model_fields)}"
    message = error["msg"].removeprefix("Value error, ")
    given = error["input"]
    shown = "" if isinstance(given, dict | BaseModel) else f" (given: {given!r})"
    return f"{path or 'the recipe'}: {message[0].lower()}{message[1:]}{shown}."


def _without_tags(location: tuple[Any, ...]) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """A place without the names that pydantic puts into it for the kind of settings, and the class
    of every section: of the one that the place lies in, its method's."""
    classes = _section_classes()
    methods = SECTIONS[location[0]].methods if location and location[0] in SECTIONS else None
    if len(location) < 2 or not methods:
        return location, classes
    stage, method, *rest = location
    if rest[:1] == ["allocate"] and len(rest) > 1:
        return (stage, "allocate", *rest[2:]), {**classes, stage: ALLOCATORS[str(rest[1])]}
    return (stage, *rest), {**classes, stage: methods[str(method)]}


def _nearest(name: str, known: Any) -> str:
    found = difflib.get_close_matches(name, list(known), n=1, cutoff=0.5)
    return f"; did you mean {found[0]!r}?" if found else "."


def _section_classes() -> dict[str, type[BaseModel]]:
    """The settings class of every section; of one that names a method, the default's."""
    stages = {name: stage.default for name, stage in SECTIONS.items() if stage.default}
    return {"text": TextSettings, **stages, "require": Requirements}


def explain(recipe: Recipe) -> list[tuple[str, str, str, str]]:
    """Every setting of a recipe: (name, value, default, description)."""
    rows = []
    for key in ("model", "seed", "target", "variants"):
        field = Recipe.model_fields[key]
        rows.append(
            (key, _told(getattr(recipe, key)), _told(field.default), str(field.description))
        )
    for stage in _section_classes():
        settings = getattr(recipe, stage)
        if settings is None:
            continue
        for key, field in type(settings).model_fields.items():
            value, default = getattr(settings, key), field.default
            rows.append((f"{stage}.{key}", _told(value), _told(default), str(field.description)))
    return rows


def _told(value: Any) -> str:
    return ", ".join(map(str, value)) if isinstance(value, tuple) else str(value)
