"""Text from outside, escaped for the formats that we write, where it must not act as markup.

Characters that a format cannot hold (controls, unpaired surrogates) become U+FFFD.
"""

import json
import re

from markupsafe import Markup

_LOST = "\ufffd"
# Characters outside XML 1.0; and DEL and the C1 controls, which command terminals.
_UNPRINTABLE = re.compile(r"[^\t\n\r -~\xa0-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_SPANS = re.compile(r"[\\`*_{}\[\]<>|#~&$]|:(?=//)|(?<=www)\.")
_BLOCKS = re.compile(r"^(\d*)([-+=.)])(?=\s|$|[-=]+$)")


def printable(text: str) -> str:
    """Text without characters that XML, HTML or terminals cannot hold; it is not escaped."""
    return _UNPRINTABLE.sub(_LOST, text)


def one_line(text: str) -> str:
    """Printable text on one line, stripped."""
    return printable(" ".join(text.split()))


def markdown(text: str) -> Markup:
    """Text for a line of Markdown or part of one, table cells included."""
    return Markup(_BLOCKS.sub(r"\1\\\2", _SPANS.sub(r"\\\g<0>", one_line(text))))


def markdown_code(text: str) -> Markup:
    """Text as inline code in Markdown, table cells included, where code cannot hold a pipe."""
    line = one_line(text).replace("|", _LOST)
    fence = "`" * (1 + max(map(len, re.findall("`+", line)), default=0))
    return Markup(f"{fence}{line}{fence}" if fence == "`" else f"{fence} {line} {fence}")


def python_string(text: str) -> Markup:
    """Text as a Python string literal on one line."""
    return Markup(json.dumps(one_line(text), ensure_ascii=False))
