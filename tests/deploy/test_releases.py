"""Releases and workflows: one version, pinned actions, what they run is there; the action."""

import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
from collections import defaultdict
from pathlib import Path
from typing import Any

import click
import pytest
import yaml

from edgeprune.base.version import __version__
from edgeprune.cli import main

ROOT = Path(__file__).parents[2]
if not (ROOT / "pyproject.toml").is_file():
    pytest.skip("no checkout: the package is installed alone", allow_module_level=True)
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
GIVEN = ROOT / "deploy" / "github-actions"
EVERY = [*WORKFLOWS, GIVEN / "edgeprune.yml", GIVEN / "action.yml"]


def steps(file: Path) -> list[dict[str, Any]]:
    content = yaml.safe_load(file.read_text(encoding="utf-8"))
    jobs = content["jobs"].values() if "jobs" in content else [content["runs"]]
    return [step for job in jobs for step in job["steps"]]


# the version ---------------------------------------------------------------------------------


def test_the_version_stands_in_one_place():
    """Whatever else names it names the same."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert project["project"]["dynamic"] == ["version"]
    assert project["tool"]["hatch"]["version"]["path"] == "edgeprune/base/version.py"
    assert yaml.safe_load((ROOT / "CITATION.cff").read_text())["version"] == __version__
    said = [
        (file.name, version)
        for file in (*(ROOT / "deploy").rglob("*"), *(ROOT / "docs").glob("*.md"))
        if file.is_file()
        for version in re.findall(
            r"edgeprune-(\d+\.\d+\.\d+)-|edgeprune/deploy/\S+@v(\d+\.\d+\.\d+)",
            file.read_text(encoding="utf-8"),
        )
    ]
    assert len(said) >= 5
    assert {version for _, found in said for version in found if version} == {__version__}


def test_what_a_device_may_have_at_least_is_asked_for_exactly():
    shown = subprocess.run(
        [sys.executable, ROOT / ".ci" / "oldest.py"], capture_output=True, text=True, check=True
    ).stdout.split()
    asked = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    # Whatever releases are left out by name.
    assert [each.partition(",!=")[0].replace(">=", "==") for each in asked] == shown


# workflows -----------------------------------------------------------------------------------


def test_every_action_is_pinned_to_one_commit():
    pins = defaultdict(set)
    for file in EVERY:
        for line in file.read_text(encoding="utf-8").splitlines():
            if "uses:" in line and not line.lstrip().startswith("#"):
                found = re.fullmatch(
                    r"\s*- ?uses: ([\w./-]+)@([0-9a-f]{40}) # v[\d.]+|"
                    r"\s*uses: ([\w./-]+)@([0-9a-f]{40}) # v[\d.]+",
                    line,
                )
                assert found, f"{file.name}: {line}"
                name, commit = filter(None, found.groups())
                pins[name].add(commit)
    assert {name for name, commits in pins.items() if len(commits) > 1} == set()
    assert "actions/checkout" in pins


@pytest.mark.parametrize("file", EVERY, ids=lambda file: file.name)
def test_scripts_are_bash_and_run_what_there_is(file):
    targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.M)) | {"docs"}
    for step in steps(file):
        script = step.get("run", "")
        read = subprocess.run(["bash", "-n"], input=script, text=True, capture_output=True)
        assert read.returncode == 0, read.stderr
        for target in re.findall(r"\bmake ([\w-]+)", script):
            assert target in targets
        for name in re.findall(r"\.ci/[\w.]+", script):
            assert (ROOT / name).is_file()
        for name, rest in re.findall(r"^edgeprune (\w+)(.*)", script.replace("\\\n", " "), re.M):
            known = {option for each in main.commands[name].params for option in each.opts}
            assert set(re.findall(r" (--[\w-]+)", rest)) <= known


@pytest.mark.parametrize("file", [*WORKFLOWS, GIVEN / "edgeprune.yml"], ids=lambda file: file.name)
def test_a_job_may_do_no_more_than_it_says(file):
    """Nothing is allowed to all jobs; each says its own, and when it is given up."""
    content = yaml.safe_load(file.read_text(encoding="utf-8"))
    assert content["permissions"] == {}
    for job in content["jobs"].values():
        assert job["permissions"]
        assert job["timeout-minutes"] <= 120


def test_tests_run_on_what_is_promised():
    content = yaml.safe_load((ROOT / ".github/workflows/tests.yml").read_text())
    matrix = content["jobs"]["suite"]["strategy"]["matrix"]
    systems = {re.sub(r"-[\d.]+", "", name) for name in matrix["system"]}
    assert systems == {"ubuntu", "ubuntu-arm", "macos", "windows"}
    oldest = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["requires-python"]
    assert matrix["python"][0] == oldest.removeprefix(">=")
    assert matrix["python"] == ["3.11", "3.12", "3.13"]


@pytest.mark.parametrize("tool", ["actionlint", "zizmor"])
def test_linters_of_workflows_find_no_fault(tool):
    program = shutil.which(tool)
    if program is None:
        pytest.skip(f"{tool} is not installed here (make lint-workflows)")
    options = ["--offline", "--no-progress"] if tool == "zizmor" else []
    done = subprocess.run([program, *options, *EVERY[:-1]], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


# the gate's action and hook ------------------------------------------------------------------


def run_action(tmp_path: Path, code: int, options: str) -> tuple[int, dict[str, str], list[str]]:
    """The action's script beside a program that stands for edgeprune and ends with a code.

    Returns:
        the script's own code, its outputs, and the words that it gave to edgeprune.
    """
    [script] = [step["run"] for step in steps(GIVEN / "action.yml") if step["name"] == "Check"]
    programs = tmp_path / "programs"
    programs.mkdir()
    fake = programs / "edgeprune"
    fake.write_text(
        f"#!{sys.executable}\n"
        "import json, sys\n"
        f"open({str(tmp_path / 'given')!r}, 'w').write(json.dumps(sys.argv[1:]))\n"
        "file = sys.argv[sys.argv.index('--json') + 1]\n"
        f"open(file, 'w').write(json.dumps({{'verdict': 'v{code}'}}))\n"
        "print('| a table |')\n"
        f"sys.exit({code})\n"
    )
    fake.chmod(0o755)
    python = programs / "python"
    python.symlink_to(sys.executable)
    files = {name: tmp_path / name for name in ("GITHUB_OUTPUT", "GITHUB_STEP_SUMMARY")}
    environment = {
        "PATH": f"{programs}{os.pathsep}{os.environ['PATH']}",
        "BUNDLE": "new bundle",
        "AGAINST": "old",
        "OPTIONS": options,
        "RUNNER_TEMP": str(tmp_path),
        **{name: str(file) for name, file in files.items()},
    }
    done = subprocess.run(["bash", "-eo", "pipefail", "-c", script], env=environment, check=False)
    outputs = files["GITHUB_OUTPUT"]
    told = outputs.read_text().splitlines() if outputs.exists() else []
    if told:
        assert "| a table |" in files["GITHUB_STEP_SUMMARY"].read_text()
        assert "| a table |" in (tmp_path / "edgeprune-comment.md").read_text()
    given = json.loads((tmp_path / "given").read_text())
    return done.returncode, dict(line.split("=", 1) for line in told), given


@pytest.mark.skipif(sys.platform == "win32", reason="its runners have a bash of their own")
@pytest.mark.parametrize("code", [0, 1])
def test_the_action_gives_on_what_the_gate_found(code, tmp_path):
    options = "--task sts --data 'held out.jsonl'\n--max-slowdown 10%"
    ended, outputs, given = run_action(tmp_path, code, options)
    assert ended == 0  # the last step ends with the gate's code, after the comment
    assert outputs["code"] == str(code)
    assert outputs["verdict"] == f"v{code}"
    assert json.loads(Path(outputs["json"]).read_text())["verdict"] == f"v{code}"
    words = ["--task", "sts", "--data", "held out.jsonl", "--max-slowdown", "10%"]
    assert given[: 4 + len(words)] == ["check", "new bundle", "--against", "old", *words]
    with click.Context(main, info_name="edgeprune") as above:
        main.commands["check"].make_context("check", given[1:], parent=above)


@pytest.mark.skipif(sys.platform == "win32", reason="its runners have a bash of their own")
def test_what_could_not_be_measured_ends_the_action(tmp_path):
    ended, outputs, given = run_action(tmp_path, 2, "")
    assert (ended, outputs) == (2, {})
    assert given[:5] == ["check", "new bundle", "--against", "old", "--format"]


def test_the_hook_is_the_gate():
    file = ROOT / ".pre-commit-hooks.yaml"
    [hook] = yaml.safe_load(file.read_text())
    program, command = hook["entry"].split()
    assert program in tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]
    example = "\n".join(
        line.lstrip("# ") for line in file.read_text().splitlines() if "args:" in line
    )
    args = yaml.safe_load(example)["args"]
    with click.Context(main, info_name="edgeprune") as above:
        main.commands[command].make_context(command, args, parent=above)
    assert not hook["pass_filenames"]
    for name in ("models/small/edgeprune.json", "a/onnx/model.onnx", "model.onnx_data"):
        assert re.search(hook["files"], name)
