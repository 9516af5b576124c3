"""Take the pictures of a build's report into docs/pictures: `python docs/make/pictures.py OUTPUT`.

OUTPUT is a build's output folder. A picture keeps what its report drew; the report's colours, which
its page has as variables, go into the file, so that it is right in light and in dark wherever it is
shown.
"""

import re
import sys
from pathlib import Path

PLACE = Path(__file__).parents[1] / "pictures"
NAMES = {
    "against speed": "stages",
    "heads that every layer kept": "heads",
    "channels that every layer kept": "channels",
    "rounding error": "rounding",
    "recover": "recover",
    "by operator": "operators",
    "by tokens": "latency",
    "Sparsity and budget": "prune",
}
"""Words of a picture's label -> its file's name."""
_SVG = re.compile(r'<svg [^>]*aria-label="([^"]*)".*?</svg>', re.DOTALL)
_COLOURS = re.compile(
    r":root \{[^}]*\}|@media \(prefers-color-scheme: dark\) \{.*?\}\s*\}", re.DOTALL
)


def main() -> None:
    """Write the pictures that there are, and say which there are not."""
    page = (Path(sys.argv[1]) / "report.html").read_text(encoding="utf-8")
    light, dark = _COLOURS.findall(page)[:2]
    style = f"<style>{light} {dark} text {{ font-family: system-ui, sans-serif }}</style>"
    found: dict[str, str] = {}
    for picture in _SVG.finditer(page):
        for words, name in NAMES.items():
            if words in picture[1] and name not in found:
                found[name] = picture[0]
                break
    for name, svg in found.items():
        head = re.sub(r"^<svg ", '<svg xmlns="http://www.w3.org/2000/svg" ', svg)
        head = re.sub(r"(<svg [^>]*>)", rf"\1{style}", head, count=1)
        (PLACE / f"{name}.svg").write_text(re.sub(r"\s*\n\s*", " ", head) + "\n", encoding="utf-8")
    if missing := set(NAMES.values()) - set(found):
        sys.exit(f"The report has no picture for {', '.join(sorted(missing))}.")


if __name__ == "__main__":
    main()
