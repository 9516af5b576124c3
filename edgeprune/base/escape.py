"""Names and sentences of others in formats of ours: each stands there for itself, and is no markup.

What a format has no character for (controls, halves of surrogate pairs) becomes U+FFFD.
"""

import json
import re

from markupsafe import Markup

_LOST = "\ufffd"
# What XML 1.0 has no character for; and DEL and the C1 controls, by which terminals are commanded.
_UNPRINTABLE = re.compile(r"[^\t\n\r -~\xa0-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_SPANS = re.compile(r"[\\`*_{}\[\]<>|#~&$]|:(?=//)|(?<=www)\.")
_BLOCKS = re.compile(r"^(\d*)([-+=.)])(?=\s|$|[-=]+$)")


def printable(text: str) -> str:
    """Text that XML, HTML and terminals can hold, escaped as they need it or not."""
    return _UNPRINTABLE.sub(_LOST, text)


def one_line(text: str) -> str:
    """Printable text without line breaks, nor blanks at its ends."""
    return printable(" ".join(text.split()))


def markdown(text: str) -> Markup:
    """Text for a line of Markdown or a part of one, in a table's cell too."""
    return Markup(_BLOCKS.sub(r"\1\\\2", _SPANS.sub(r"\\\g<0>", one_line(text))))


def markdown_code(text: str) -> Markup:
    """Text as Markdown's code, in a table's cell too, where code cannot hold a pipe."""
    line = one_line(text).replace("|", _LOST)
    fence = "`" * (1 + max(map(len, re.findall("`+", line)), default=0))
    return Markup(f"{fence}{line}{fence}" if fence == "`" else f"{fence} {line} {fence}")


def python_string(text: str) -> Markup:
    """Text as a literal of Python's, on one line."""
    return Markup(json.dumps(one_line(text), ensure_ascii=False))
