"""What all settings have in common. No torch here: the command line reads this file."""

from pydantic import BaseModel, ConfigDict


class Settings(BaseModel):
    """Values that do not change, of known names, every number finite."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)
