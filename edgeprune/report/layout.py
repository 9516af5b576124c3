"""The templates of pages and cards."""

from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape

from edgeprune.report.names import breakable


def environment() -> Environment:
    """Templates by name; those of HTML escape what they are given."""
    found = Environment(
        loader=PackageLoader("edgeprune", "report/templates"),
        autoescape=select_autoescape(["html"]),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    found.filters["breakable"] = breakable
    return found
