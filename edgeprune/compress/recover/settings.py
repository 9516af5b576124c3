"""The settings of recovery. No torch here."""

from edgeprune.compress.distil.settings import TrainSettings


class RecoverSettings(TrainSettings):
    """Recovery after cutting."""
