"""YAML of a user's: no numbers to the base of sixty, no bombs, and errors in a sentence."""

import re
from typing import Any

import yaml
from yaml.constructor import ConstructorError

from edgeprune.base.errors import UserError

_MOST_NODES = 100_000
"""Of a recipe; the longest that ships has a few hundred."""


class _Loader(yaml.SafeLoader):
    """Safe YAML without its numbers to the base of sixty, in which the pattern 2:4 would be 124."""

    def resolve(self, kind: Any, value: Any, implicit: Any) -> Any:
        tag = super().resolve(kind, value, implicit)
        if isinstance(value, str) and ":" in value and tag.endswith((":int", ":float")):
            return "tag:yaml.org,2002:str"
        return tag

    def get_single_node(self) -> Any:
        node = super().get_single_node()
        _refuse_expansion(node)
        return node

    def construct_object(self, node: Any, deep: bool = False) -> Any:
        try:
            value = super().construct_object(node, deep)
            if isinstance(value, str):
                value.encode()  # an escape may be half of a character
        except ValueError as error:  # such as a month 13
            raise ConstructorError(None, None, str(error), node.start_mark) from None
        return value


def _refuse_expansion(root: Any) -> None:
    """Refuse a document that its aliases make many times as long, or endless.

    Raises:
        ConstructorError: at the node where it happens.
    """
    sizes: dict[int, int] = {}
    open_nodes: set[int] = set()

    def size(node: Any) -> int:
        """Nodes below one, each alias counted as what it stands for."""
        if id(node) in open_nodes:
            raise ConstructorError(None, None, "an alias stands for itself", node.start_mark)
        if id(node) not in sizes:
            open_nodes.add(id(node))
            parts = node.value if isinstance(node, yaml.CollectionNode) else ()
            below = (each for part in parts for each in (part if type(part) is tuple else (part,)))
            sizes[id(node)] = 1 + sum(map(size, below))
            open_nodes.discard(id(node))
        if sizes[id(node)] > _MOST_NODES:
            raise ConstructorError(None, None, "its aliases stand for too much", node.start_mark)
        return sizes[id(node)]

    if root is not None:
        size(root)


def read_yaml(text: str | bytes, refusal: str) -> Any:
    """Parse YAML text.

    Raises:
        UserError: it is not YAML, or nested too deep; `refusal` and the reason.
    """
    try:
        return yaml.load(text, _Loader)
    except (yaml.YAMLError, RecursionError) as error:
        reason = re.sub(r'in "<\w+ string>",', "at", " ".join(str(error).split()))
        raise UserError(f"{refusal}: {reason}") from None
