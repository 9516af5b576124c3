"""From "module:function" to the function, imported on use since it may need torch."""

import importlib
from typing import Any


def load_function(path: str) -> Any:
    """The function that "module:function" names."""
    module, _, function = path.partition(":")
    return getattr(importlib.import_module(module), function)
