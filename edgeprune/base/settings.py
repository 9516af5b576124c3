"""The base class of all settings. No torch here: the command line reads this file."""

from pydantic import BaseModel, ConfigDict


class Settings(BaseModel):
    """Immutable values; unknown names, NaN and infinity are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)
