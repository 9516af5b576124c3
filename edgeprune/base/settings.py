"""The base class of all settings. No torch here: the command line reads this file."""

from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, BeforeValidator, ConfigDict


class Settings(BaseModel):
    """Immutable values; unknown names, NaN and infinity are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


def renamed(names: Mapping[str, str]) -> BeforeValidator:
    """A validator for a setting some of whose values have got other names: old ones are refused.

    Args:
        names: old -> new.
    """

    def refuse(value: Any) -> Any:
        if isinstance(value, str) and value in names:
            raise ValueError(f"{value} is called {names[value]} now: write that")
        return value

    return BeforeValidator(refuse)
