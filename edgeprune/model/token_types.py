"""The types of a pair's tokens: of which of the two texts each is, where a model is told."""

import re
from collections.abc import Mapping
from typing import Any

from edgeprune.model.families import UNTYPED_TOKENIZERS


def tells_token_types(tokenizer: Mapping[str, Any], config: Mapping[str, Any]) -> bool:
    """Whether a tokenizer tells a model of which of a pair's texts each token is.

    Args:
        tokenizer: the contents of tokenizer_config.json, which may say so; else its class does.
        config: the model's, whose type stands for a class that is not named.
    """
    if isinstance(names := tokenizer.get("model_input_names"), list):
        return "token_type_ids" in names
    kind = tokenizer.get("tokenizer_class") or config.get("model_type")
    return not re.sub("[_-]", "", str(kind).lower()).startswith(UNTYPED_TOKENIZERS)
