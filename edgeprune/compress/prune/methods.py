"""The methods of the prune stage: name in a recipe -> settings and "module:function". No torch."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import BaseModel, Discriminator, Tag

from edgeprune.compress.prune.oneshot_settings import (
    GlobalSettings,
    MagnitudeSettings,
    SparseGPTSettings,
    ThanosSettings,
    WandaSettings,
)
from edgeprune.compress.prune.search_settings import SearchSettings
from edgeprune.compress.prune.train_settings import PruneStageSettings


@dataclass(frozen=True)
class Method:
    """Settings of a method and its stage's function (build, source, target, settings)."""

    settings: type[BaseModel]
    function: str


DEFAULT_METHOD = "momentum-variance"
METHODS: dict[str, Method] = {
    "momentum-variance": Method(PruneStageSettings, "edgeprune.compress.prune.dynamic:run"),
    "magnitude": Method(MagnitudeSettings, "edgeprune.compress.prune.oneshot:run"),
    "wanda": Method(WandaSettings, "edgeprune.compress.prune.oneshot:run"),
    "sparsegpt": Method(SparseGPTSettings, "edgeprune.compress.prune.oneshot:run"),
    "thanos": Method(ThanosSettings, "edgeprune.compress.prune.oneshot:run"),
    "nap": Method(GlobalSettings, "edgeprune.compress.prune.nap:run"),
    "search": Method(SearchSettings, "edgeprune.compress.prune.level_search:run"),
}


def method_of(values: Any) -> str:
    """The method that a recipe's settings (or settings that were read) name."""
    if isinstance(values, Mapping):
        return str(values.get("method", DEFAULT_METHOD))
    return str(getattr(values, "method", DEFAULT_METHOD))


AnyPruneSettings = Annotated[
    Annotated[PruneStageSettings, Tag("momentum-variance")]
    | Annotated[MagnitudeSettings, Tag("magnitude")]
    | Annotated[WandaSettings, Tag("wanda")]
    | Annotated[SparseGPTSettings, Tag("sparsegpt")]
    | Annotated[ThanosSettings, Tag("thanos")]
    | Annotated[GlobalSettings, Tag("nap")]
    | Annotated[SearchSettings, Tag("search")],
    Discriminator(method_of),
]
