"""The text around a query and its document that a reranker among decoders was trained to read.

Such a model reads an instruction as a chat has it, with both texts in their places, and says
whether one answers the other. The parts around the two are kept beside the model, so that whoever
runs it needs no renderer of templates:

    pair_template.json      {"before": "...<Query>: ", "between": "\\n<Document>: ", "after": "..."}
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from tokenizers import Tokenizer

from edgeprune.base.errors import UserError
from edgeprune.base.files import read_object
from edgeprune.text.pairs import Document

PAIR_TEMPLATE = "pair_template.json"
_MARKS = ("QqueryQ", "QdocumentQ")
_PROBES = (("a b", "c"), (" a ", "b.\n"), ("a?", ""), ("ä\n\nb", "{{ c }}"))
"""Pairs of which a template must make what its parts do: spaces, ends and letters stay."""


@dataclass(frozen=True)
class PairTemplate:
    """The text before a query, between it and its document, and after both."""

    before: str
    between: str
    after: str

    def joined(self, document: Document) -> str:
        """A pair in its place, without what comes after: a document that is too long is cut before
        that.

        Raises:
            UserError: it is a single text.
        """
        if isinstance(document, str):
            raise UserError(
                "This reranker reads a query with a document, and was given a single text: give "
                "both (--pair, text_pair)."
            )
        return f"{self.before}{document[0]}{self.between}{document[1]}"

    def end(self, tokenizer: Tokenizer) -> list[int]:
        """The tokens after both texts.

        Args:
            tokenizer: cutting nothing.
        """
        return tokenizer.encode(self.after, add_special_tokens=False).ids

    def room(self, tokenizer: Tokenizer, tokens: int) -> int:
        """The tokens that a pair may have, but for those of its end, where it may have so many in
        all.

        Args:
            tokenizer: cutting nothing.

        Raises:
            UserError: the template alone has as many.
        """
        around = len(tokenizer.encode(self.before + self.between, add_special_tokens=False).ids)
        end = len(self.end(tokenizer))
        if around + end >= tokens:
            raise UserError(
                f"The text that this reranker reads around a pair has {around + end:,} tokens, and "
                f"{tokens:,} are the most here: allow more (text.max_tokens of a recipe)."
            )
        return tokens - end

    def write(self, folder: Path) -> None:
        """Keep it in a model's folder."""
        text = json.dumps(asdict(self), indent=2, ensure_ascii=False)
        (folder / PAIR_TEMPLATE).write_text(text + "\n", encoding="utf-8")


def read_pair_template(folder: Path) -> PairTemplate | None:
    """That of the model in `folder`; None where it has none.

    Raises:
        UserError: the file lacks one of the three texts.
    """
    path = folder / PAIR_TEMPLATE
    if not path.is_file():
        return None
    found, names = read_object(path), [field.name for field in fields(PairTemplate)]
    if sorted(found) != sorted(names) or not all(isinstance(each, str) for each in found.values()):
        raise UserError(f"{path} must have the texts {', '.join(names)}, and nothing else.")
    return PairTemplate(**found)


def taken_apart(render: Callable[[str, str], str], tokenizer: Tokenizer) -> PairTemplate | None:
    """The parts of what a template makes of pairs; None where it does not put them as they are, the
    query first, between texts of its own, or where its end runs into the document's tokens.

    Args:
        render: a query and a document -> what the model reads.
    """
    before, _, rest = render(*_MARKS).partition(_MARKS[0])
    between, mark, after = rest.partition(_MARKS[1])
    if not mark or any(each in between + after for each in _MARKS):
        return None
    parts = PairTemplate(before, between, after)
    end = parts.end(tokenizer)
    for pair in _PROBES:
        whole = parts.joined(pair) + after
        if render(*pair) != whole or _ids(tokenizer, whole) != [
            *_ids(tokenizer, parts.joined(pair)),
            *end,
        ]:
            return None
    return parts


def _ids(tokenizer: Tokenizer, text: str) -> Sequence[int]:
    return tokenizer.encode(text, add_special_tokens=False).ids
