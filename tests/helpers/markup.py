"""HTML and Markdown as readers see them."""

from markdown_it import MarkdownIt

READER = MarkdownIt("commonmark").enable(["table", "strikethrough"])


def shape(source: str, reader: MarkdownIt = READER) -> tuple[list[str], list[str]]:
    """The kinds of all elements, and the texts."""
    kinds, texts = [], []
    for token in reader.parse(source):
        for each in (token, *(token.children or ())):
            kinds.append(each.type)
            if each.type in ("text", "code_inline"):
                texts.append(each.content)
    return kinds, texts
