"""From a name in a recipe to the function that does it, imported on use: it may need torch."""

import importlib
from typing import Any


def load_function(path: str) -> Any:
    """What "module:function" names."""
    module, _, function = path.partition(":")
    return getattr(importlib.import_module(module), function)
