"""The contents of a bundle or a model's folder: `describe` reads it, `inspect_table` shows it."""

from edgeprune.measure.inspect.describe import describe as describe
from edgeprune.measure.inspect.table import inspect_table as inspect_table
