"""The package's version, for records and manifests."""

__version__ = "0.1.0"
