"""Render a chat into a prompt with the bundle's chat template."""

from collections.abc import Mapping, Sequence
from typing import Any

from edgeprune.runtime.bundle import Bundle
from edgeprune.text.chat_template import Message, rendered


def apply_chat_template(
    bundle: Bundle, messages: Sequence[Message], tools: Sequence[Mapping[str, Any]] = ()
) -> str:
    """The prompt for a chat of messages ({"role": ..., "content": ...}), up to the model's answer.

    Args:
        tools: what the model may call, as OpenAI describes functions.

    Raises:
        UserError: the bundle has no template, or the template fails or exceeds its limits.
    """
    settings = bundle.tokenizer_config
    options: dict[str, Any] = {"tools": [dict(tool) for tool in tools]} if tools else {}
    return rendered(bundle.folder, settings, messages, add_generation_prompt=True, **options)
