"""How a page's commands are carried out, in this process or by reading what they name."""

import re
import subprocess
import tomllib
from collections.abc import Callable
from functools import partial
from pathlib import Path

from click.testing import CliRunner
from doc_pages import LANGUAGES, ROOT, Block, commands
from services import process

from edgeprune.cli import main

QUICK = {
    "bench": ["--launches", "1", "--time-limit", "0.1"],
    "check": [
        *("--launches", "1", "--time-limit", "0.1", "--tokens", "12"),
        *("--max-slowdown", "100000%", "--max-memory", "1000%"),
    ],
}
"""Options that follow a page's own: of tiny models, times say nothing."""
PARSED = {
    "calibrate": "takes minutes; tests/search/times carry it out",
    "search": "takes minutes; tests/search carry it out",
    "--remote": "goes to another machine; tests/measure/bench/test_bench_remote.py does",
}
"""Commands that are read and not carried out here, by a word in them, and why."""


def run_edgeprune(words: list[str], quick: bool) -> None:
    """A command of EdgePrune's, in this process; `quick` for tiny models."""
    name, given = words[1], words[2:]
    if any(word in PARSED for word in words):
        main.commands[name].make_context(name, given)
        return
    more = list(QUICK.get(name, ())) if quick else []
    if quick and name == "bench" and "--tokens" not in given:
        more += ["--tokens", "12"]
    if quick and "perplexity" in given:
        more += ["--window", "16"]
    done = CliRunner().invoke(main, [name, *given, *more])
    if done.exception and not isinstance(done.exception, SystemExit):
        raise done.exception
    assert done.exit_code == 0, done.output


def read_pip(words: list[str]) -> None:
    """An install: its extras are there."""
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    for named in re.findall(r"^\.\[([\w,]+)\]$", "\n".join(words), re.MULTILINE):
        assert set(named.split(",")) <= set(extras["optional-dependencies"]), named


def read_make(words: list[str]) -> None:
    """A target: the Makefile has it."""
    targets = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert set(words[1:]) <= set(targets), words


def read_python(words: list[str]) -> None:
    """A script of the repository: it is there, and knows the options."""
    if words[1] == "-c":
        exec(words[2], {})
    if words[1].endswith(".py"):
        text = (ROOT / words[1]).read_text(encoding="utf-8")
        assert all(word in text for word in words if word.startswith("--")), words


def read_files(words: list[str]) -> None:
    """A command on another machine: the files of deploy/ that it names are there."""
    for word in words:
        if word.startswith("raspberry-pi/"):
            assert (ROOT / "deploy" / word).is_file(), word
        if word.startswith("deploy/"):
            assert (ROOT / word).exists(), word


def ask(words: list[str]) -> None:
    """A request, to a service of the bundle in `small`."""
    with process(Path("small/bundle")) as (_, address):
        asked = [word.replace("localhost:8000", address.removeprefix("http://")) for word in words]
        done = subprocess.run([*asked, "--fail"], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr


OTHERS: dict[str, Callable[[list[str]], None]] = {
    "pip": read_pip,
    "make": read_make,
    "python": read_python,
    "python3": read_python,
    ".": read_files,
    "scp": read_files,
    "sudo": read_files,
    "raspberry-pi/install.sh": read_files,
    "curl": ask,
}
"""A command's first word, where it is no command of EdgePrune's -> what is done with it."""


def carry_out(page: str, block: Block, names: dict[str, object], quick: bool = True) -> None:
    """Carry out a block in the working folder; `names` are those that its Python sees."""
    where = f"{page}:{block.line}"
    assert block.language in LANGUAGES, where
    if block.language == "sh":
        for words in commands(block.text):
            own = words[0].endswith("edgeprune")
            (partial(run_edgeprune, quick=quick) if own else OTHERS[words[0]])(words)
    elif block.language == "yaml":
        Path(block.text.split("\n")[0].removeprefix("# ")).write_text(block.text)
    elif block.language == "python":
        exec(compile(block.text, where, "exec"), names)
