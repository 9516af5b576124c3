"""The methods of the prune stage: name in a recipe -> settings and "module:function". No torch."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Union

from pydantic import BaseModel, Discriminator, Tag

from edgeprune.compress.prune.criteria import CRITERIA
from edgeprune.compress.prune.oneshot_settings import GlobalSettings, LayerwiseSettings
from edgeprune.compress.prune.search_settings import SearchSettings
from edgeprune.compress.prune.train_settings import PruneStageSettings


@dataclass(frozen=True)
class Method:
    """Settings of a method, its stage's function (build, source, target, settings), and what the
    method is for, in a sentence."""

    settings: type[BaseModel]
    function: str
    purpose: str


DEFAULT_METHOD = "momentum-variance"
METHODS: dict[str, Method] = {
    "momentum-variance": Method(
        PruneStageSettings,
        "edgeprune.compress.prune.dynamic:run",
        "Prunes during distillation, step by step; the one for channels and heads.",
    ),
    **{
        name: Method(each.settings, "edgeprune.compress.prune.oneshot:run", each.purpose)
        for name, each in CRITERIA.items()
    },
    "nap": Method(
        GlobalSettings,
        "edgeprune.compress.prune.nap:run",
        "One ranking of all layers, where no share per layer is known; needs the memory of a "
        "backward pass.",
    ),
    "search": Method(
        SearchSettings,
        "edgeprune.compress.prune.level_search:run",
        "Shares per layer by trying them, where half an hour is there to spend.",
    ),
}


def method_of(values: Any) -> str:
    """The method that a recipe's settings (or settings that were read) name."""
    if isinstance(values, Mapping):
        return str(values.get("method", DEFAULT_METHOD))
    return str(getattr(values, "method", DEFAULT_METHOD))


if TYPE_CHECKING:
    AnyPruneSettings = PruneStageSettings | LayerwiseSettings | GlobalSettings | SearchSettings
else:
    _TAGGED = tuple(Annotated[method.settings, Tag(name)] for name, method in METHODS.items())
    AnyPruneSettings = Annotated[Union[_TAGGED], Discriminator(method_of)]  # noqa: UP007
