"""What is printed reads on dark and on light terminals, and without colours."""

import io
import re
from pathlib import Path

import pytest
from rich.console import Console, Group
from rich.table import Table

import edgeprune
from edgeprune.base import progress
from edgeprune.base.console import Terminal
from edgeprune.measure.check import formats
from edgeprune.pipeline import terminal
from edgeprune.report.figures import Cell

# Of the sixteen colours, those that have contrast on black and on white; the rest is weight.
READABLE = {"bold", "dim", "red", "green", "magenta", "blue", "default"}


def test_every_style_reads_on_dark_and_light() -> None:
    used = {word for style in formats._STYLES.values() for word in style.split()}
    used |= {terminal._WORSE}
    files = Path(edgeprune.__file__).parent.rglob("*.py")
    texts = {file: file.read_text(encoding="utf-8") for file in files}
    # Its themes are for one background.
    assert [file for file, text in texts.items() if "rich.syntax" in text] == []
    rich = [text for text in texts.values() if "from rich" in text]
    named = {style for text in rich for style in re.findall(r'style="([a-z_ ]+)"', text)}
    assert named
    assert used | {word for style in named for word in style.split()} <= READABLE


def test_progress_has_no_colours_of_one_background() -> None:
    for column in ("download", "elapsed", "remaining"):
        style = progress.console.get_style(f"progress.{column}")
        assert style.color is None or style.color.is_default


@pytest.mark.parametrize("width", [80, 120])
def test_a_loss_is_told_by_words_and_an_interval_stays_whole(
    width: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    loss = Cell("1.33x slower", "1.31 to 1.36", "worse")
    monkeypatch.setattr(terminal._console, "_width", width)
    shown = terminal._shown(loss)
    assert shown.plain == ("1.33x slower (1.31 to 1.36)", "1.33x slower\n1.31 to 1.36")[width < 100]
    plain, coloured = (
        Console(file=io.StringIO(), force_terminal=True, color_system="standard", no_color=off)
        for off in (True, False)
    )
    for console in (plain, coloured):
        console.print(shown)
    assert "\x1b[31m" not in plain.file.getvalue()
    assert "slower" in plain.file.getvalue()
    assert "\x1b[31m" in coloured.file.getvalue()


@pytest.mark.parametrize("width", [9, 14, 80])
def test_no_letter_is_left_out_of_a_narrow_terminal(
    width: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    table = Table.grid(padding=(0, 1, 0, 0))
    table.add_column()
    table.add_column()
    table.add_row("rewrite", "DynamicQuantizeLinear")
    Terminal().print(Group(table))
    letters = "".join(capsys.readouterr().out.split())
    assert sorted(letters) == sorted("rewriteDynamicQuantizeLinear")
