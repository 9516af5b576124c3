"""The settings of allocators: where a one-shot method's budget falls. No torch here.

In a recipe `allocate: owl` means the allocator with its defaults, and
`allocate: {by: owl, spread: 0.1}` with others.
"""

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Discriminator, Field, Tag

from edgeprune.base.settings import Settings


class Allocator(Settings):
    """The settings of all allocators."""

    @property
    def sequences_per_batch(self) -> int | None:
        """Sequences of a batch where the first ones have to be as random as all."""
        return None

    def __str__(self) -> str:
        return ", ".join(f"{name}={value}" for name, value in self)


class Uniform(Allocator):
    """The same share of every linear."""

    by: Literal["uniform"] = "uniform"


class Outliers(Allocator):
    """The settings of OWL and of its version by projection."""

    spread: float = Field(
        0.08,
        ge=0,
        lt=0.5,
        description="Half of what lies between the largest keep ratio and the smallest.",
    )
    factor: float = Field(
        5.0, gt=1, description="A score beyond this many times its layer's mean is an outlier."
    )


class Owl(Outliers):
    """Layers with many outliers among their Wanda scores keep more (Yin et al., 2023)."""

    by: Literal["owl"] = "owl"


class Projection(Outliers):
    """The same rule for every linear by itself, as Mosaic has it."""

    by: Literal["projection"] = "projection"


class MarchenkoPastur(Allocator):
    """Linears whose spectrum looks like noise keep less: an experiment."""

    by: Literal["marchenko-pastur"] = "marchenko-pastur"
    spread: float = Field(
        0.08, ge=0, lt=0.5, description="How far apart the largest and smallest keep ratio lie."
    )


class Coverage(Allocator):
    """Every linear keeps the same share of its scores' sum (after MoE-Slimming)."""

    by: Literal["coverage"] = "coverage"


class Depth(Allocator):
    """The keep ratio changes linearly with depth (after TENP's trapezoid)."""

    by: Literal["depth"] = "depth"
    slope: float = Field(
        0.05,
        gt=-0.5,
        lt=0.5,
        description="How much more than the mean the last block keeps, and less the first; "
        "negative turns it round.",
    )


class Absorption(Allocator):
    """Another allocator's ratios, corrected by how much of an error each block hands on."""

    by: Literal["absorption"] = "absorption"
    base: Literal["uniform", "owl", "projection", "marchenko-pastur", "coverage", "depth"] = Field(
        "owl", description="The allocator that is corrected, with its defaults."
    )
    strength: float = Field(
        0.02, ge=0, lt=0.5, description="Keep ratio for one standard deviation; 0 is the base."
    )
    samples: int = Field(8, ge=1, description="Sequences of text that errors are followed on.")

    @property
    def sequences_per_batch(self) -> int | None:
        """The first batch, or first few, are followed."""
        return self.samples


ALLOCATORS: dict[str, type[Allocator]] = {
    "uniform": Uniform,
    "owl": Owl,
    "projection": Projection,
    "marchenko-pastur": MarchenkoPastur,
    "coverage": Coverage,
    "depth": Depth,
    "absorption": Absorption,
}


def _by_name(value: Any) -> Any:
    return {"by": value} if isinstance(value, str) else value


def _by(value: Any) -> str:
    if isinstance(value, Mapping):
        return str(value.get("by", "uniform"))
    return str(getattr(value, "by", value))


AnyAllocator = Annotated[
    Annotated[Uniform, Tag("uniform")]
    | Annotated[Owl, Tag("owl")]
    | Annotated[Projection, Tag("projection")]
    | Annotated[MarchenkoPastur, Tag("marchenko-pastur")]
    | Annotated[Coverage, Tag("coverage")]
    | Annotated[Depth, Tag("depth")]
    | Annotated[Absorption, Tag("absorption")],
    Discriminator(_by),
    BeforeValidator(_by_name),
]
