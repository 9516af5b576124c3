"""What a terminal shows: examples that can be typed, completion, colours where they belong."""

import io
import os
import re
import shlex
import subprocess
import sys

import click
import pytest
from click.shell_completion import ShellComplete
from click.testing import CliRunner
from rich.text import Text

from edgeprune.base.console import Terminal
from edgeprune.cli import main
from edgeprune.measure.evaluate.measures import MEASURES
from edgeprune.measure.works import WORKS
from edgeprune.pipeline.recipe import shipped
from edgeprune.search.times.settings import FORMS
from edgeprune.targets import NAMES

# help ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", sorted(main.commands))
def test_every_help_ends_with_examples_that_can_be_typed(name, tmp_path, monkeypatch):
    """Each is read as a shell and the command would read it, choices and required ones too."""
    monkeypatch.chdir(tmp_path)
    said = CliRunner().invoke(main, [name, "--help"], prog_name="edgeprune").output
    examples = said.partition("Examples:\n")[2].strip().splitlines()
    assert examples
    for line in examples:
        program, command, *given = shlex.split(line)
        assert (program, command) == ("edgeprune", name)
        with click.Context(main, info_name="edgeprune") as above:
            main.commands[name].make_context(name, given, parent=above)


@pytest.mark.parametrize(
    ("command", "option", "names"),
    [
        ("evaluate", "task", list(MEASURES)),
        ("check", "task", list(MEASURES)),
        ("search", "task", list(MEASURES)),
        ("search", "target", ["this", *NAMES]),
        ("search", "work", list(WORKS)),
        ("calibrate", "form", list(FORMS)),
        ("calibrate", "work", list(WORKS)),
    ],
)
def test_choices_are_those_of_the_code(command, option, names):
    [parameter] = [each for each in main.commands[command].params if each.name == option]
    assert isinstance(parameter.type, click.Choice)
    assert list(parameter.type.choices) == names
    [long] = [word for word in parameter.opts if word.startswith("--")]
    done = CliRunner().invoke(main, [command, long, "nothing"])
    assert done.exit_code == 2
    assert f"There is no {long} 'nothing': take one of {', '.join(names)}." in done.stderr


def test_the_help_of_a_measure_names_them_all():
    """Its choices would fill lines, and so it lists them by kind."""
    [parameter] = [each for each in main.commands["evaluate"].params if each.name == "task"]
    assert set(re.findall(r"\w+", parameter.help)) - {"or", "and"} == set(MEASURES)


# completion ----------------------------------------------------------------------------------


def test_a_shell_gets_its_script():
    """And asks by the same program later, however it was started."""
    done = subprocess.run(
        [sys.executable, "-m", "edgeprune"],
        capture_output=True,
        text=True,
        env=os.environ | {"_EDGEPRUNE_COMPLETE": "zsh_source"},
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "#compdef edgeprune" in done.stdout
    assert "_EDGEPRUNE_COMPLETE=zsh_complete edgeprune" in done.stdout


@pytest.mark.parametrize(
    ("typed", "completed"),
    [
        (["chec"], {("plain", "check")}),
        (["evaluate", "bundle", "--task", "stsx"], set()),
        (["evaluate", "bundle", "--task", "st"], {("plain", "sts")}),
        (["calibrate", "--only", "form"], {("plain", "formats")}),
        (["build", "encoder-"], {("plain", name) for name in shipped() if "encoder-" in name}),
        (["build", "./enc"], {("file", "./enc")}),
        (["run", "small/b"], {("file", "small/b")}),
        (["build", "--set", "x=1", "--model", "m"], {("file", "m")}),
    ],
)
def test_what_a_shell_completes(typed, completed):
    asked = ShellComplete(main, {}, "edgeprune", "_EDGEPRUNE_COMPLETE")
    found = asked.get_completions(typed[:-1], typed[-1])
    assert {(each.type, each.value) for each in found} == completed


# colours -------------------------------------------------------------------------------------


class Screen(io.StringIO):
    """A terminal."""

    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(
    ("screen", "environment", "coloured"),
    [
        (Screen, {"TERM": "xterm"}, True),
        (Screen, {"TERM": "xterm", "NO_COLOR": "1"}, False),
        (Screen, {"TERM": "dumb"}, False),
        (io.StringIO, {"TERM": "xterm"}, False),
    ],
)
def test_colours_are_on_a_terminal_alone_and_can_be_turned_off(
    screen, environment, coloured, monkeypatch
):
    """By the convention of no-color.org, and off where nobody looks."""
    for name in ("NO_COLOR", "FORCE_COLOR", "COLORTERM", "TTY_COMPATIBLE"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    written = screen()
    monkeypatch.setattr(sys, "stdout", written)
    Terminal().print(Text("missed", style="red"))
    assert bool(re.search(r"\x1b\[[0-9;]*31m", written.getvalue())) == coloured
    assert "missed" in written.getvalue()
