"""The settings of vocabulary trimming: which tokens stay."""

from typing import Any

from pydantic import Field, field_validator

from edgeprune.base.settings import Settings


class VocabularySettings(Settings):
    """Removal of the tokens that the user's text does not use.

    Special tokens, single characters and bytes always stay, so that any text can still be written.
    """

    min_count: int = Field(
        1, ge=1, description="How often the text must use a token for it to stay."
    )
    data: tuple[str, ...] = Field(
        (),
        description="Further text whose tokens stay, in the forms of text.data: a large sample of "
        "the language, prompts, the names of labels.",
    )

    @field_validator("data", mode="before")
    @classmethod
    def _one_or_several(cls, value: Any) -> Any:
        return (value,) if isinstance(value, str) else value
