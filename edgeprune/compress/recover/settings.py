"""The settings of recovery. No torch here."""

from edgeprune.compress.distil.settings import DistilSettings


class RecoverSettings(DistilSettings):
    """Recovery after cutting."""
