"""The settings of recovery. No torch here."""

from pydantic import Field

from edgeprune.compress.distil.settings import DistilSettings


class RecoverSettings(DistilSettings):
    """Recovery after cutting."""

    quantized: bool = Field(
        False,
        description="Train through the rounding of `quantize`: linears run with their weights and "
        "inputs at the values of codes, and are left at them; the range of each channel or group "
        "is trained along. Slower by a fifth to a third.",
    )
