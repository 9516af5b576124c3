"""Draw a recorded terminal: `python docs/make/terminal.py RECORDING FOLDER`.

RECORDING is what `script --command COMMAND RECORDING` kept of a real run, in a terminal of 100
columns (`stty cols 100`); FOLDER is where it ran, whose path is left out. What stood on the screen
when it ended is drawn, by rich, into docs/pictures/terminal.svg. Needs the package pyte.
"""

import re
import sys
from itertools import groupby
from pathlib import Path

import pyte
from rich.console import Console
from rich.style import Style
from rich.text import Text

PLACE = Path(__file__).parents[1] / "pictures" / "terminal.svg"
COLUMNS, LINES = 100, 200
_RICH = {"brown": "yellow", "brightblack": "bright_black", "brightred": "bright_red"}
"""Colours that pyte and rich call by different names."""
TITLE = "edgeprune build encoder --output small"


def main() -> None:
    """Write the drawing."""
    recording = Path(sys.argv[1]).read_bytes().decode("utf-8")
    body = re.sub(r"^Script started.*?\n|\nScript done.*\Z", "", recording, flags=re.DOTALL)
    body = body.replace(f"{Path(sys.argv[2]).resolve()}/", "")
    screen = pyte.Screen(COLUMNS, LINES)
    pyte.Stream(screen).feed(body)
    console = Console(record=True, width=COLUMNS, file=open("/dev/null", "w"))  # noqa: SIM115
    last = max(row for row, line in enumerate(screen.display) if line.strip())
    console.print(Text(f"$ {TITLE}", style="bold"))
    for row in range(last + 1):
        console.print(_line(screen, row))
    drawn = re.sub(r"@font-face \{.*?\}", "", console.export_svg(title=TITLE), flags=re.DOTALL)
    PLACE.write_text(drawn, encoding="utf-8")  # which fetches no font


def _line(screen: pyte.Screen, row: int) -> Text:
    cells = [screen.buffer[row][column] for column in range(COLUMNS)]
    text = Text()
    for (colour, bold), run in groupby(cells, key=lambda cell: (cell.fg, cell.bold)):
        named = None if colour == "default" else _RICH.get(colour, colour)
        text.append("".join(cell.data for cell in run), Style(color=named, bold=bold))
    text.rstrip()
    return text


if __name__ == "__main__":
    main()
