"""The templates of pages and cards."""

from collections.abc import Callable

from jinja2 import Environment, PackageLoader, StrictUndefined

from edgeprune.base.escape import markdown_code, printable, python_string
from edgeprune.base.names import breakable


def environment(escape: Callable[[str], str] = printable) -> Environment:
    """Templates by name; whatever text they are given is escaped, unless it is Markup.

    Args:
        escape: what a format needs before HTML's own escaping, which leaves Markup alone.
    """
    found = Environment(
        loader=PackageLoader("edgeprune", "report/templates"),
        autoescape=True,
        finalize=lambda value: (
            escape(value) if isinstance(value, str) and not hasattr(value, "__html__") else value
        ),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    found.filters |= {"breakable": breakable, "code": markdown_code, "python": python_string}
    return found
