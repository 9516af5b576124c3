"""Prompts: texts that a sentence encoder was trained to read before those that it embeds, and the
other settings in config_sentence_transformers.json."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

from tokenizers import Tokenizer

from edgeprune.base.errors import UserError
from edgeprune.base.files import read_object

Similarity = Literal["cosine", "dot", "euclidean", "manhattan"]
"""Functions of two vectors; the larger the nearer, the last two being distances with a minus."""


@dataclass(frozen=True)
class Library:
    """A sentence encoder's prompts, width and similarity."""

    prompts: Mapping[str, str] = field(default_factory=dict)
    """By name; some are empty."""
    default: str | None = None
    """The name of the prompt that stands before a text for which none is asked."""
    width: int | None = None
    """The number of a vector's first values that are left."""
    similarity: Similarity = "cosine"

    def prompt(self, name: str | None = None) -> str:
        """The prompt of that name; without one, the usual one, which may be none.

        Raises:
            UserError: the model has no prompt of that name.
        """
        if name is None:
            return self.prompts.get(self.default, "") if self.default is not None else ""
        if name not in self.prompts:
            known = ", ".join(self.prompts) or "none"
            raise UserError(
                f"The model has no prompt {name!r}: its prompts are {known} "
                "(config_sentence_transformers.json)."
            )
        return self.prompts[name]


def read_library(folder: Path) -> Library:
    """The settings of the encoder in `folder`; the library's own where there are none.

    Raises:
        UserError: one is of another kind, or not known here.
    """
    path = folder / "config_sentence_transformers.json"
    config = read_object(path)
    prompts, default = config.get("prompts") or {}, config.get("default_prompt_name")
    if not isinstance(prompts, dict) or not all(
        isinstance(prompt, str | None) for prompt in prompts.values()
    ):
        raise UserError(f"{path}: prompts must be an object of names and texts.")
    if default is not None and default not in prompts:
        raise UserError(
            f"{path}: default_prompt_name is {default!r}, and prompts has none of that name: set "
            "it to one of them, or to null."
        )
    width = config.get("truncate_dim")
    similarity: Any = config.get("similarity_fn_name") or "cosine"
    if width is not None and (type(width) is not int or width < 1):
        raise UserError(f"{path}: truncate_dim is {width!r}, and must be a whole number or null.")
    if similarity not in get_args(Similarity):
        raise UserError(
            f"{path}: similarity_fn_name is {similarity!r}, and edgeprune compares vectors by "
            f"{', '.join(get_args(Similarity))}."
        )
    texts = {name: prompt or "" for name, prompt in prompts.items()}
    return Library(texts, default, width, similarity)


def prompt_tokens(tokenizer: Tokenizer, prompt: str) -> int:
    """The first tokens of a text that are its prompt's, special ones before it included, as
    sentence-transformers counts them: all of the prompt alone, but for a special one at its end.

    Args:
        tokenizer: cutting texts as it does the text that follows the prompt.
    """
    if not prompt:
        return 0
    ids = tokenizer.encode(prompt).ids
    special = {number for number, t in tokenizer.get_added_tokens_decoder().items() if t.special}
    return len(ids) - (bool(ids) and ids[-1] in special)
