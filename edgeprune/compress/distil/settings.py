"""The settings of training: what the distillation of pruning and of recovery have in common."""

from pathlib import Path
from typing import Literal

from pydantic import Field

from edgeprune.base.settings import Settings
from edgeprune.base.words import many
from edgeprune.compress.objectives.settings import LossWeights


class Optimization(Settings):
    """AdamW: the learning rate rises over `warmup` of the steps and falls along a half cosine."""

    steps: int = Field(1000, ge=1, description="Optimizer steps.")
    learning_rate: float = Field(3e-4, gt=0, lt=1, description="AdamW's largest learning rate.")
    warmup: float = Field(
        0.05, ge=0, lt=1, description="Share of the steps in which the learning rate rises."
    )
    weight_decay: float = Field(0.0, ge=0, lt=1, description="AdamW's weight decay.")
    clip_norm: float = Field(5.0, gt=0, description="Largest norm of a step's gradient.")
    train_embeddings: bool = Field(
        False, description="Whether embedding tables are trained; they make up most of the memory."
    )
    precision: Literal["auto", "float32", "bfloat16"] = Field(
        "auto",
        description="Arithmetic of the matrix products; auto is bfloat16 where the processor has "
        "instructions for it. Weights and losses stay float32.",
    )
    checks: int = Field(
        6, ge=1, description="How often the held-out loss is measured; the best weights are kept."
    )


class TrainSettings(LossWeights, Optimization):
    """Distillation from the original on the user's text.

    The learning rate rises over `warmup` of the steps and falls to zero along a half cosine.
    """


class DistilSettings(TrainSettings):
    """Distillation of what is left, for as many steps or as long."""

    minutes: float | None = Field(
        None,
        gt=0,
        description="Minutes to train for, held-out checks included, in place of `steps`; the "
        "learning rate and the checks follow the share of them that has passed.",
    )
    answers: Path | None = Field(
        None,
        exclude=True,  # where they lie changes no result, and is nobody else's business
        description="Folder in which the original's answers to the training text are kept, so that "
        "none is computed twice; trainings on the same text may share it. None: `answers` in the "
        "build's output. Nothing is kept where hidden states are compared (hidden_weight), nor of "
        "models that answer token by token.",
    )
    answers_megabytes: int = Field(
        512,
        ge=0,
        le=1_000_000,
        description="The most that these answers take on disk; 0 keeps none.",
    )

    @property
    def length(self) -> str:
        """The minutes or steps in words."""
        if self.minutes is not None:
            return "1 minute" if self.minutes == 1 else f"{self.minutes:g} minutes"
        return many(self.steps, "step")
