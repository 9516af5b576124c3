"""A stage of a build as one object: what it refuses, would do, does and did.

A stage is a folder, with a row.py that holds such an object and imports no torch, and a line in the
table of edgeprune/export/stages.py. The checks, the dry run, the runner and the report go over
that table and know no stage by name.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from edgeprune.base.errors import UserError
from edgeprune.base.install import install
from edgeprune.base.record import Record
from edgeprune.base.registry import load_function
from edgeprune.compress.context import Context
from edgeprune.compress.facts import Facts
from edgeprune.model.tasks import Task


def _nothing(*_: Any) -> None:
    """Refuses nothing."""


def _no_lines(*_: Any) -> list[str]:
    return []


def _as_before(settings: Any, facts: Facts) -> Facts:
    return facts


def objective(task: Task) -> list[str]:
    """The code that a stage finds through a task's row where it trains or scores."""
    return [task.objective]


@dataclass(frozen=True)
class Stage:
    """One stage."""

    name: str
    run: str
    """"module:function" of (context, source folder, target folder, settings) -> its record."""
    record: type[Record]
    """The class of that record."""
    settings: Any = None
    """The type of its section in a recipe; None where it has none."""
    default: type | None = None
    """The settings class of a section that names no method; None: `settings` is a class."""
    methods: Mapping[str, type] | None = None
    """The settings classes by the method that the section names, where it names one."""
    description: str = ""
    """Its section in a recipe, in a sentence."""
    gives: Literal["reference", "model", "graph"] | None = "model"
    """The kind of output that later stages go on with; a reference is a model that is yet
    uncompressed, by which what comes of it is judged."""
    always: bool = False
    """Whether it runs in every build, not only where the recipe has its section."""
    whole: Callable[[Any], str] | None = None
    """The setting for which it needs the whole model in memory, empty where none does; None: the
    stage needs it."""
    varies: bool = False
    """Whether each variant of the bundle has its own; none that follows it is shared."""
    compares: bool = False
    """Whether it looks at the original as a whole, and is left out where that is streamed."""
    trains: bool = False
    """Whether it may take hours, so that what refuses without its result is asked before it."""
    refuse: Callable[[Any, Facts], None] = _nothing
    """Raises a UserError for settings that cannot be carried out on this model."""
    attends: bool = False
    """Whether it takes models alone of which every layer attends."""
    agree: Callable[[Any, Mapping[str, Any]], None] = _nothing
    """Raises a ValueError for settings that contradict those of other stages, given by name."""
    would: Callable[[Any, Facts], list[str]] = _no_lines
    """The sentences on what it would do."""
    leaves: Callable[[Any, Facts], Facts] = _as_before
    """The facts for the stages after it."""
    told: Callable[[Any], list[str]] = _no_lines
    """Its record in sentences."""
    look: str | None = None
    """"module:function" of (context, settings) that looks at the uncompressed model for what would
    stop this stage; it returns sentences."""
    looks: Callable[[Any], bool] = lambda settings: True
    """Whether there is anything to look for under these settings."""
    reads: Callable[[Any, Context], Iterable[str]] = _no_lines
    """Digests of what its result depends on beside its input, settings, code and target."""
    through: str | None = None
    """"module:function" of (model, context, settings): the context in which a model that is trained
    runs as it will after this stage, and is left so that this stage keeps what it learned."""
    trains_through: Callable[[Any], bool] = lambda settings: False
    """Whether it trains within the contexts of later stages (`Context.through`)."""
    asks: Callable[[Task], Iterable[str]] = _no_lines
    """Code that it finds through the task's row: modules, or "module:function"."""

    def needs_whole(self, settings: Any) -> str:
        """The setting that needs the whole model in memory, by its name; empty: none does."""
        if self.compares:
            return ""
        return self.name if self.whole is None else self.whole(settings)

    def load(self) -> Callable[..., Any]:
        """The function that `run` names.

        Raises:
            UserError: a package that building needs is not installed.
        """
        return loaded(self.run)


def loaded(function: str) -> Callable[..., Any]:
    """A function that building needs, by "module:function".

    Raises:
        UserError: a package that it imports is not installed.
    """
    try:
        return load_function(function)
    except ModuleNotFoundError as error:
        raise UserError(f"Building needs the package {error.name}: {install('build')}.") from error
