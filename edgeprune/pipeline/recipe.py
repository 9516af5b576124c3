"""The recipe: which stages run with which settings. Read, checked, explained and written here.

A recipe is a YAML file. A stage that it does not name does not run; a setting that it does not
name has its default. No torch here: a dry run and `edgeprune recipes` work on a device.
"""

import difflib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import yaml
from pydantic import BaseModel, Field, ValidationError, model_validator
from yaml.constructor import ConstructorError

from edgeprune.base.errors import UserError
from edgeprune.base.install import install
from edgeprune.base.registry import load_function
from edgeprune.base.settings import Settings
from edgeprune.compress.cut.settings import CutSettings
from edgeprune.compress.cut.vocabulary_settings import VocabularySettings
from edgeprune.compress.prune.allocate_settings import ALLOCATORS
from edgeprune.compress.prune.methods import DEFAULT_METHOD, METHODS, AnyPruneSettings
from edgeprune.compress.quantize.settings import QuantizeSettings
from edgeprune.compress.recover.settings import RecoverSettings
from edgeprune.measure.requirements import Requirements
from edgeprune.pipeline.measure.settings import MeasureSettings
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
# The stages whose settings depend on a method.
_PRUNING = ("prune", "sparsify")
_MOST_NODES = 100_000
"""Of a recipe; the longest that ships has a few hundred."""


class Recipe(Settings):
    """A whole recipe."""

    name: str = Field("custom", description="What the recipe is called.")
    description: str = Field("", description="What it does, in a sentence or two.")
    model: str | None = Field(
        None, description="A folder, a hub id, or package:NAME; --model overrides it."
    )
    seed: int = Field(0, ge=0, lt=2**32, description="The seed of everything random.")
    target: str = Field(
        "auto", description="The kind of processor to build for; auto is this machine's."
    )
    text: TextSettings = Field(TextSettings(), description="The text to learn from.")
    vocabulary: VocabularySettings | None = Field(
        None, description="Removal of the tokens that the text does not use."
    )
    prune: AnyPruneSettings | None = Field(
        None, description="Pruning, by the method that `method` names."
    )
    cut: CutSettings | None = Field(None, description="Removal from the shapes.")
    sparsify: AnyPruneSettings | None = Field(
        None, description="Pruning of weights after the cut, in blocks that run fast."
    )
    recover: RecoverSettings | None = Field(None, description="Recovery by distillation.")
    quantize: QuantizeSettings | None = Field(None, description="INT8 and INT4 weights.")
    measure: MeasureSettings = Field(MeasureSettings(), description="Speed, memory and quality.")
    require: Requirements = Field(
        Requirements(), description="What must be reached; missed, the exit code is 1."
    )

    @model_validator(mode="after")
    def _emptied_units_leave(self) -> Self:
        if self.prune and self.prune.gated and self.cut is None:
            raise ValueError(
                f"pruning of {self.prune.pattern} needs the cut stage, by which they leave the "
                "shapes; add `cut: {}`"
            )
        return self

    @model_validator(mode="after")
    def _emptied_weights_stay_empty(self) -> Self:
        if self.prune and not self.prune.gated and self.cut and self.cut.compensate:
            raise ValueError(
                "cut.compensate refits whole linears and would fill the weights that pruning "
                f"in the pattern {self.prune.pattern} emptied; leave one of them out"
            )
        return self

    @model_validator(mode="after")
    def _weights_are_pruned_once(self) -> Self:
        if self.sparsify and self.sparsify.gated:
            raise ValueError(
                f"sparsify prunes the weights that the cut leaves, and {self.sparsify.pattern} are "
                "for `prune`; give it a pattern such as 4x16"
            )
        if self.sparsify and self.prune and not self.prune.gated:
            raise ValueError(
                f"sparsify would give back weights that pruning in the pattern "
                f"{self.prune.pattern} removed; leave one of them out"
            )
        return self

    def to_yaml(self) -> str:
        """The recipe with every setting, as a file that reads back the same."""
        content = self.model_dump(mode="json")
        for stage in _stage_models():
            if content[stage] is None:
                content[stage] = "off"  # an empty stage would mean its defaults
        return yaml.safe_dump(content, sort_keys=False, allow_unicode=True)


@dataclass(frozen=True)
class StageEntry:
    """Where a stage's function is; imported on use, since it may need torch."""

    name: str
    function: str

    def load(self) -> Any:
        """The stage's function (build, source, target, settings) -> what it did.

        Raises:
            UserError: a package that building needs is not installed.
        """
        try:
            return load_function(self.function)
        except ModuleNotFoundError as error:
            raise UserError(
                f"Building needs the package {error.name}: {install('build')}."
            ) from error


STAGES: tuple[StageEntry, ...] = (
    StageEntry("load", "edgeprune.pipeline.stages:load"),
    StageEntry("original", "edgeprune.pipeline.stages:original"),
    StageEntry("vocabulary", "edgeprune.compress.cut.vocabulary:run"),
    StageEntry("prune", "edgeprune.compress.prune.stage:run"),
    StageEntry("cut", "edgeprune.compress.cut.stage:run"),
    StageEntry("sparsify", "edgeprune.compress.prune.stage:run"),
    StageEntry("recover", "edgeprune.compress.recover.stage:run"),
    StageEntry("quantize", "edgeprune.pipeline.stages:quantize"),
    StageEntry("export", "edgeprune.pipeline.stages:export"),
    StageEntry("rewrite", "edgeprune.pipeline.stages:rewrite"),
    StageEntry("measure", "edgeprune.pipeline.measure.stage:run"),
)


def shipped() -> dict[str, Path]:
    """The recipes that ship, by name: from the installed package, or from the checkout."""
    here = Path(__file__).parent
    for folder in (here / "shipped", here.parents[1] / "pipelines"):
        if folder.is_dir():
            return {file.stem: file for file in sorted(folder.glob("*.yaml"))}
    return {}


class _Loader(yaml.SafeLoader):
    """Safe YAML without its numbers to the base of sixty, in which the pattern 2:4 would be 124."""

    def resolve(self, kind: Any, value: Any, implicit: Any) -> Any:
        tag = super().resolve(kind, value, implicit)
        if isinstance(value, str) and ":" in value and tag.endswith((":int", ":float")):
            return "tag:yaml.org,2002:str"
        return tag

    def get_single_node(self) -> Any:
        node = super().get_single_node()
        _refuse_expansion(node)
        return node

    def construct_object(self, node: Any, deep: bool = False) -> Any:
        try:
            value = super().construct_object(node, deep)
            if isinstance(value, str):
                value.encode()  # an escape may be half of a character
        except ValueError as error:  # such as a month 13
            raise ConstructorError(None, None, str(error), node.start_mark) from None
        return value


def _refuse_expansion(root: Any) -> None:
    """Refuse a document that its aliases make many times as long, or endless.

    Raises:
        ConstructorError: at the node where it happens.
    """
    sizes: dict[int, int] = {}
    open_nodes: set[int] = set()

    def size(node: Any) -> int:
        """Nodes below one, each alias counted as what it stands for."""
        if id(node) in open_nodes:
            raise ConstructorError(None, None, "an alias stands for itself", node.start_mark)
        if id(node) not in sizes:
            open_nodes.add(id(node))
            parts = node.value if isinstance(node, yaml.CollectionNode) else ()
            below = (each for part in parts for each in (part if type(part) is tuple else (part,)))
            sizes[id(node)] = 1 + sum(map(size, below))
            open_nodes.discard(id(node))
        if sizes[id(node)] > _MOST_NODES:
            raise ConstructorError(None, None, "its aliases stand for too much", node.start_mark)
        return sizes[id(node)]

    if root is not None:
        size(root)


def _read_yaml(text: str | bytes, refusal: str) -> Any:
    """What YAML text holds.

    Raises:
        UserError: it is not YAML, or nested too deep; `refusal` and the reason.
    """
    try:
        return yaml.load(text, _Loader)
    except (yaml.YAMLError, RecursionError) as error:
        reason = re.sub(r'in "<\w+ string>",', "at", " ".join(str(error).split()))
        raise UserError(f"{refusal}: {reason}") from None


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
    content = _read_yaml(file.read_bytes(), f"{file} is not a YAML recipe")
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
    if key in Recipe.model_fields and key in _stage_models():
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
    place[keys[-1]] = _read_yaml(value, f"--set {override!r}: {value!r} is not YAML")


def _explain_error(error: Any) -> str:
    location, pruning = _without_tags(error["loc"])
    path = ".".join(str(part) for part in location)
    if error["type"] == "union_tag_invalid":
        given = str(error["ctx"]["tag"])
        of_allocator = location[1:] == ("allocate",)
        key, noun, known = (
            ("by", "allocator", ALLOCATORS) if of_allocator else ("method", "method", METHODS)
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
            stages = {**_stage_models(), **dict.fromkeys(_PRUNING, pruning)}
            model = stages.get(str(parent), inner if isinstance(inner, type) else model)
        return f"there is no setting {path!r}{_nearest(str(key), model.model_fields)}"
    message = error["msg"].removeprefix("Value error, ")
    given = error["input"]
    shown = "" if isinstance(given, dict | BaseModel) else f" (given: {given!r})"
    return f"{path or 'the recipe'}: {message[0].lower()}{message[1:]}{shown}."


def _without_tags(location: tuple[Any, ...]) -> tuple[tuple[Any, ...], type[BaseModel]]:
    """A place without the names that pydantic puts into it for the kind of settings, and the class
    of the pruning settings that it lies in."""
    if len(location) < 2 or location[0] not in _PRUNING:
        return location, METHODS[DEFAULT_METHOD].settings
    stage, method, *rest = location
    if rest[:1] == ["allocate"] and len(rest) > 1:
        return (stage, "allocate", *rest[2:]), ALLOCATORS[str(rest[1])]
    return (stage, *rest), METHODS[str(method)].settings


def _nearest(name: str, known: Any) -> str:
    found = difflib.get_close_matches(name, list(known), n=1, cutoff=0.5)
    return f"; did you mean {found[0]!r}?" if found else "."


def _stage_models() -> dict[str, type[BaseModel]]:
    return {
        "text": TextSettings,
        "vocabulary": VocabularySettings,
        "prune": METHODS[DEFAULT_METHOD].settings,
        "cut": CutSettings,
        "sparsify": METHODS[DEFAULT_METHOD].settings,
        "recover": RecoverSettings,
        "quantize": QuantizeSettings,
        "measure": MeasureSettings,
        "require": Requirements,
    }


def explain(recipe: Recipe) -> list[tuple[str, str, str, str]]:
    """Every setting of a recipe: (name, value, default, description)."""
    rows = []
    for key in ("model", "seed", "target"):
        field = Recipe.model_fields[key]
        rows.append(
            (key, _told(getattr(recipe, key)), _told(field.default), str(field.description))
        )
    for stage in _stage_models():
        settings = getattr(recipe, stage)
        if settings is None:
            continue
        for key, field in type(settings).model_fields.items():
            value, default = getattr(settings, key), field.default
            rows.append((f"{stage}.{key}", _told(value), _told(default), str(field.description)))
    return rows


def _told(value: Any) -> str:
    return ", ".join(map(str, value)) if isinstance(value, tuple) else str(value)


# Stages that run whatever the recipe says; the others run where it names them.
_ALWAYS = ("load", "original", "export", "rewrite", "measure")


def wanted_stages(recipe: Recipe) -> list[StageEntry]:
    """The stages that run."""
    return [
        entry
        for entry in STAGES
        if entry.name in _ALWAYS or getattr(recipe, entry.name) is not None
    ]
