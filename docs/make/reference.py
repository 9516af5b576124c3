"""The reference, made of the code: settings classes, commands, public names, families, tasks."""

import re
from collections.abc import Iterable, Mapping, Sequence
from inspect import cleandoc
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import click
from annotated_types import Ge, Gt, Le, Lt, MinLen
from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

import edgeprune
from edgeprune.base.registry import load_function
from edgeprune.cli import main
from edgeprune.compress.prune.allocate_settings import ALLOCATORS
from edgeprune.measure.bench.settings import BenchSettings
from edgeprune.model.families import FAMILIES
from edgeprune.model.tasks import TASKS
from edgeprune.pipeline.advice import advice
from edgeprune.pipeline.recipe import SECTIONS, Recipe, read_recipe, shipped
from edgeprune.text.settings import TextSettings

ANSWERS = (
    *("embed", "classify", "zero_shot", "score", "rank", "tag", "answer", "fill", "chat"),
    "complete",
)
"""Methods of what `edgeprune.load` returns, by which a model is asked."""
_WORDS = {int: "whole number", float: "number", str: "text", bool: "true or false", Path: "path"}
_BOUNDS = {Ge: ("≥", "ge"), Gt: (">", "gt"), Le: ("≤", "le"), Lt: ("<", "lt")}


def recipe() -> str:
    """Every key of a recipe: of the whole build, of its text, of each stage, of what it must
    reach."""
    fields = Recipe.model_fields
    head = {k: f for k, f in fields.items() if k not in {*SECTIONS, "text", "require"}}
    parts = [
        "# Recipe keys",
        "A recipe is a YAML file. A stage that it does not name does not run, but for those that "
        "every build has; a key that it does not name has its default. `--set STAGE.KEY=VALUE` "
        "sets any of them on the command line, `settings={...}` in Python. Names that are not here "
        "are refused.",
        *_section("The build", "", head),
        *_section("text", str(fields["text"].description), TextSettings.model_fields),
    ]
    for name, stage in SECTIONS.items():
        told = f"{stage.description} {'In every build.' if stage.always else 'Off by default.'}"
        methods = stage.methods or {}
        if not methods:
            parts += _section(name, told, stage.settings.model_fields)
            continue
        parts += [f"## {name}", f"{told} `{name}.method` names one of these:"]
        for method, settings in methods.items():
            own = {key: field for key, field in settings.model_fields.items() if key != "method"}
            parts += _section(f"{name}: {method}", _doc(settings), own, "###")
    parts += ["## Allocators", "Of `prune.allocate`: a name, or `{by: NAME, KEY: VALUE}`."]
    for name, settings in ALLOCATORS.items():
        own = {key: field for key, field in settings.model_fields.items() if key != "by"}
        parts += _section(name, _doc(settings), own, "###")
    required = fields["require"].annotation
    assert isinstance(required, type)
    parts += _section("require", str(fields["require"].description), required.model_fields)
    return "\n\n".join(parts) + "\n"


def commands() -> str:
    """Every command with its arguments and options."""
    parts = ["# Commands", f"{main.help}"]
    for name, command in sorted(main.commands.items()):
        usage = command.get_usage(click.Context(command, info_name=f"edgeprune {name}"))
        parts += [f"## {name}", f"```text\n{usage.removeprefix('Usage: ')}\n```"]
        parts += [_marked(cleandoc(command.help or ""))]
        if told := re.findall(r"^ +(edgeprune .*)$", command.epilog or "", re.MULTILINE):
            parts.append("\n".join(("```sh", *told, "```")))
        options = [each for each in command.params if isinstance(each, click.Option)]
        rows = [(f"`{_named(option)}`", _cell(_told(option))) for option in options]
        if rows:
            parts.append(_table(("option", ""), rows))
    return "\n\n".join(parts) + "\n"


def python() -> str:
    """The public names, from their docstrings."""
    functions = [n for n in edgeprune.__all__ if callable(getattr(edgeprune, n)) and n.islower()]
    parts = ["# Python", "`import edgeprune` costs nothing and needs no torch.", "## Functions"]
    parts += [f"::: edgeprune.{name}" for name in functions]
    told = "`edgeprune.bench` takes these by name:"
    parts += _section("Settings of bench", told, BenchSettings.model_fields, "###")
    parts += ["## A bundle", _members("edgeprune.runtime.bundle.Bundle", ("open", "verify"))]
    parts += ["## A loaded bundle", "`edgeprune.load` returns, by the bundle's task, one of:"]
    for task in TASKS.values():
        runtime = load_function(task.runtime)
        asked = [name for name in ANSWERS if hasattr(runtime, name)]
        parts.append(f"For `{task.name}`:")
        parts.append(_members(f"{runtime.__module__}.{runtime.__name__}", asked))
    parts += ["`chat` and `complete` take how to choose the next token:"]
    parts += ["::: edgeprune.runtime.sampling.Sampling"]
    parts += ["## Errors"]
    parts += [f"::: edgeprune.base.errors.{error}" for error in ("UserError", "RequirementMissed")]
    return "\n\n".join(parts) + "\n"


def recipes() -> str:
    """The recipes that ship: what each is for."""
    rows = [(f"`{name}`", _cell(read_recipe(name).description)) for name in shipped()]
    return _table(("recipe", "what it does"), rows)


def methods() -> str:
    """Methods of pruning and cutting: when to take which, and what the comparison found."""
    rows = [
        (f"`{each['setting']}: {each['value']}`", _cell(each["purpose"]), _cell(each["found"]))
        for each in advice()
    ]
    return _table(("setting", "when", "found"), rows)


def families() -> str:
    """Families of models: what is done with each."""
    rows = []
    for family in FAMILIES:
        kinds = ", ".join(f"`{name}`" for name in family.model_types)
        kind = "decoder" if family.causal else "encoder"
        written = family.encoder is not None or family.decoder is not None
        rows.append((kinds, kind, "yes" if written else "traced", "yes" if family.in_gguf else ""))
    return _table(("`model_type`", "", "graph written by EdgePrune", "read from GGUF"), rows)


def tasks() -> str:
    """Tasks: for which models, what of the data is read, how quality is measured."""
    rows = [
        (
            f"`{task.name}`",
            _cell(task.models),
            ", ".join(f"`{column}`" for column in task.columns),
            ", ".join(f"`{measure}`" for measure in task.measures),
            f"`{task.path}`",
        )
        for task in TASKS.values()
    ]
    return _table(("task", "models", "fields of the data", "measures", "over HTTP"), rows)


def _section(
    title: str, told: str, fields: Mapping[str, FieldInfo], level: str = "##"
) -> list[str]:
    rows = [
        (f"`{key}`", _type(field), _default(field), _cell(field.description or ""))
        for key, field in fields.items()
    ]
    table = [_table(("key", "type and bounds", "default", ""), rows)] if rows else []
    return [part for part in (f"{level} {title}", told, *table) if part]


def _type(field: FieldInfo) -> str:
    bounds = [
        f"{sign} {getattr(each, name):,}"
        for each in field.metadata
        for kind, (sign, name) in _BOUNDS.items()
        if isinstance(each, kind)
    ]
    bounds += [f"at least {m.min_length}" for m in field.metadata if isinstance(m, MinLen)]
    return _cell(", ".join([_kind(field.annotation), *bounds]))


def _kind(kind: Any) -> str:
    """A type in words."""
    inner = get_args(kind)
    origin = get_origin(kind)
    if origin is Annotated:
        return _kind(inner[0])
    if origin is Literal:
        return " or ".join(f"`{each}`" for each in inner)
    if origin in (Union, UnionType):
        return " or ".join(dict.fromkeys(_kind(each) for each in inner if each is not NoneType))
    if origin is tuple:
        return f"list of {_kind(inner[0])}"
    if isinstance(origin, type) and issubclass(origin, Mapping):
        return f"{_kind(inner[1])} by name"
    if isinstance(kind, type) and issubclass(kind, BaseModel):
        return "settings"
    return _WORDS[kind]


def _default(field: FieldInfo) -> str:
    value = field.default
    if value is PydanticUndefined:
        return "required"
    if value is None or value == "":
        return ""
    if isinstance(value, BaseModel):
        value = getattr(value, "by", "")
    if isinstance(value, tuple):
        value = list(value)
    return f"`{str(value).lower() if isinstance(value, bool) else value}`" if value != "" else ""


def _members(path: str, members: Sequence[str]) -> str:
    shown = ", ".join(members)
    return f"::: {path}\n    options:\n      members: [{shown}]\n      merge_init_into_class: false"


def _named(option: click.Option) -> str:
    names = ", ".join(option.opts) + "".join(f"/{other}" for other in option.secondary_opts)
    if option.is_flag:
        return names
    if isinstance(option.type, click.Choice):
        return f"{names} {'|'.join(map(str, option.type.choices))}"
    return f"{names} {option.metavar or option.type.name.upper()}"


def _told(option: click.Option) -> str:
    default = f"  [default: {option.default}]" if option.show_default else ""
    return (option.help or "") + default


def _doc(kind: type) -> str:
    return _marked(" ".join((kind.__doc__ or "").split()))


def _marked(text: str) -> str:
    """A docstring's words, with nothing in them taken for HTML."""
    return text.replace("<", "&lt;")


def _cell(text: str) -> str:
    return _marked(" ".join(str(text).split())).replace("|", "\\|")


def _table(titles: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [titles, ["---"] * len(titles), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
