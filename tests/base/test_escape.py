"""Others' text in our formats, read by the formats' own parsers: one text more, and no markup."""

import ast
import io
import re
from xml.etree import ElementTree

import pytest
from hostile import NAMES
from hypothesis import example, given
from hypothesis import strategies as st
from justhtml import JustHTML
from markup import shape
from rich.table import Table

from edgeprune.base.console import Terminal
from edgeprune.base.escape import markdown, markdown_code, one_line, printable, python_string
from edgeprune.report.layout import environment

# Marks of every format oftener than chance would have them.
TEXTS = st.one_of(
    st.sampled_from(NAMES),
    st.lists(st.sampled_from([*"\\`*_{}[]<>|#~&!-+=.)(:/w1 \n\t$@", "\x1b", "a"])).map("".join),
    st.text(),
    st.text(st.characters(categories=["Cc", "Cs", "Zl", "Zp"])),
)
PLACES = (
    "{}",
    "# {}",
    "- {}",
    "- **{}**: {}",
    "x\n{}",
    "| a | b |\n|---|---|\n| {} | {} |\n| c | d |",
)


@given(TEXTS)
def test_markdown_takes_text_for_text(text: str) -> None:
    meant = one_line(text)
    for place in PLACES if meant else ():
        kinds, texts = shape(place.replace("{}", "name"))
        found = shape(place.replace("{}", markdown(text)))
        assert found == (kinds, [each.replace("name", meant) for each in texts]), place


@given(TEXTS)
def test_markdown_takes_code_for_code(text: str) -> None:
    meant = one_line(text).replace("|", "\ufffd")
    for place in PLACES if meant else ():
        kinds, texts = shape(place.replace("{}", "`name`"))
        found = shape(place.replace("{}", markdown_code(text)))
        assert found == (kinds, [each.replace("name", meant) for each in texts]), place


@pytest.mark.parametrize("text", ["https://example.org", "see www.example.org", "a//b http://x"])
def test_markdown_makes_no_links_of_bare_addresses(text: str) -> None:
    """Where GitHub would: an address begins with its scheme's or its host's own characters."""
    assert not re.search(r"(?<!\\)://|www\.", markdown(text))


@given(TEXTS)
def test_numbers_and_plain_names_stay_as_they_are(text: str) -> None:
    assert markdown("2.00x (1.75 to 2.25)") == "2.00x (1.75 to 2.25)"
    assert markdown("-12.3 %") == "-12.3 %"
    assert markdown("sentence-transformers/all-mpnet-base-v2, +0.09") == (
        "sentence-transformers/all-mpnet-base-v2, +0.09"
    )


@given(TEXTS)
def test_xml_and_html_can_hold_what_is_printable(text: str) -> None:
    element = ElementTree.Element("a", b=one_line(text))
    element.text = one_line(text)
    found = ElementTree.fromstring(ElementTree.tostring(element))
    assert (found.get("b"), found.text or "") == (one_line(text),) * 2
    template = environment().from_string('<p title="{{ text }}">{{ text }}</p>')
    [found] = JustHTML(template.render(text=text), sanitize=False).query("p")
    for each in (found.to_text(), found.attrs["title"]):
        assert each.split() == printable(text).split()


@given(TEXTS)
def test_python_takes_it_for_one_string(text: str) -> None:
    assert ast.literal_eval(python_string(text)) == one_line(text)
    assert "\n" not in python_string(text)


@given(TEXTS)
@example("[bold]x[/] :smile:")
def test_a_terminal_prints_it_as_it_is(text: str) -> None:
    terminal = Terminal()
    terminal.file, terminal.width = io.StringIO(), 10_000
    table = Table("head", box=None, padding=0)
    table.add_row(one_line(text))
    terminal.print(table)
    terminal.print(text, soft_wrap=True)
    head, row, *rest = terminal.file.getvalue().split("\n")
    assert (head.strip(), row.strip()) == ("head", one_line(text))
    assert not re.search(r"[\x00-\x08\x0e-\x1f\x7f-\x9f]", "\n".join(rest))


def test_what_is_meant_as_markup_stays_it() -> None:
    cells = [markdown("a|b"), markdown("c")]
    source = "{{ cells|join(' | ') }} {{ words|join(' ') }} {{ name|python }} {{ name }} {{ n }}"
    rendered = (
        environment(markdown)
        .from_string(source)
        .render(cells=cells, words=["*d*", "e"], name="<f>", n=1)
    )
    assert rendered == 'a\\|b | c \\*d\\* e "<f>" \\<f\\> 1'
