"""A model's chat template, and what it makes of messages."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from edgeprune.base.errors import UserError
from edgeprune.text.template_process import SHARED, TemplateFailure

MAX_TEMPLATE_CHARACTERS = 256 * 1024

Message = Mapping[str, Any]


def chat_template(folder: Path, settings: Mapping[str, Any], tools: bool = False) -> str | None:
    """A model's chat template: chat_template.jinja, else tokenizer_config.json's; or None.

    Args:
        settings: the contents of tokenizer_config.json.
        tools: the one for tools, where there are several.

    Raises:
        UserError: it is too long, or not UTF-8.
    """
    template: Any
    path = folder / "chat_template.jinja"
    if path.is_file():
        try:
            with path.open(encoding="utf-8") as file:
                template = file.read(MAX_TEMPLATE_CHARACTERS + 1)
        except UnicodeDecodeError:
            raise UserError(f"{path} is not UTF-8 text.") from None
    else:
        path = folder / "tokenizer_config.json"
        template = settings.get("chat_template")
        if isinstance(template, list):  # named templates; "default" is for plain chat
            entries = [entry for entry in template if isinstance(entry, dict)]
            named = {entry.get("name"): entry.get("template") for entry in entries}
            template = (named.get("tool_use") if tools else None) or named.get("default")
    if not isinstance(template, str):
        return None
    if len(template) > MAX_TEMPLATE_CHARACTERS:
        raise UserError(
            f"{path} has a chat template of more than {MAX_TEMPLATE_CHARACTERS:,} characters: "
            "it is not used."
        )
    return template


def rendered(
    folder: Path, settings: Mapping[str, Any], messages: Sequence[Message], **options: Any
) -> str:
    """Messages as a model's chat template writes them.

    Args:
        settings: the contents of tokenizer_config.json.
        options: further variables of the template.

    Raises:
        UserError: the model has no template, or the template fails or exceeds its limits.
    """
    tools = bool(options.get("tools"))
    template = chat_template(folder, settings, tools)
    if template is None:
        raise UserError(f"{folder} has no chat template: use --raw to continue plain text.")
    if tools and "tools" not in template:
        raise UserError(f"{folder} has a chat template that tells no tools: leave them out.")
    variables = {
        **_special_tokens(settings),
        "messages": [dict(message) for message in messages],
        "tools": None,
        "documents": None,
        "add_generation_prompt": False,
        **options,
    }
    try:
        return SHARED.render(template, variables)
    except TemplateFailure as failure:
        raise UserError(f"{folder}: its chat template {failure}.") from None


def _special_tokens(config: Mapping[str, Any]) -> dict[str, Any]:
    """The special tokens of tokenizer_config.json, by name: those that every tokenizer has and, as
    versions 5 and 4 of transformers write them, a model's own beside them or in a place apart."""
    more = config.get("extra_special_tokens")
    named: dict[str, Any] = {
        name: token
        for name, token in config.items()
        if name.endswith("_token") and isinstance(token, str | dict)
    }
    named["additional_special_tokens"] = config.get("additional_special_tokens")
    named |= more if isinstance(more, dict) else {}
    return {name: _content(token) for name, token in named.items() if token}


def _content(token: Any) -> Any:
    """A token as text; older releases of transformers write it with its options."""
    if isinstance(token, list):
        return [_content(one) for one in token]
    return token.get("content") if isinstance(token, dict) else token
