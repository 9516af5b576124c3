"""The settings of recovery. No torch here."""

from edgeprune.compress.distil.settings import TimedSettings


class RecoverSettings(TimedSettings):
    """Recovery after cutting."""
