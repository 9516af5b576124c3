"""Render a chat into a prompt with the bundle's chat template."""

from collections.abc import Sequence

from edgeprune.runtime.bundle import Bundle
from edgeprune.text.chat_template import Message, rendered


def apply_chat_template(bundle: Bundle, messages: Sequence[Message]) -> str:
    """The prompt for a chat of messages ({"role": ..., "content": ...}), up to the model's answer.

    Raises:
        UserError: the bundle has no template, or the template fails or exceeds its limits.
    """
    settings = bundle.tokenizer_config
    return rendered(bundle.folder, settings, messages, add_generation_prompt=True)
