"""The look at this machine: limits of containers, extras by their versions, exit codes."""

import json

import psutil
import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st
from on_device import on_a_device
from packaging.requirements import Requirement

from edgeprune.base.limits import usable_memory
from edgeprune.cli import main
from edgeprune.pipeline import doctor
from edgeprune.targets import detect


@pytest.mark.parametrize(
    ("own", "files", "memory"),
    [
        ("0::/", {"memory.max": "1000000"}, 1000000),
        ("0::/a/b", {"a/b/memory.max": "max", "memory.max": "7"}, 7),
        ("4:memory:/d", {"memory/d/memory.limit_in_bytes": "5"}, 5),
        ("4:cpu:/d", {"memory/d/memory.limit_in_bytes": "5"}, None),
        ("", {}, None),
    ],
)
def test_a_container_limits_memory(own, files, memory, tmp_path):
    """Of both versions of control groups; the least of a group's and of those above it."""
    content = {f"sys/fs/cgroup/{name}": text for name, text in files.items()}
    for name, text in {**content, "proc/self/cgroup": own}.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    assert usable_memory(tmp_path) == (memory or psutil.virtual_memory().total)


@given(st.tuples(st.integers(0, 9), st.integers(0, 9)), st.integers(0, 9))
def test_an_extra_is_here_where_its_versions_are(found, least):
    """Beside the versions as numbers."""
    installed = f"{found[0]}.{found[1]}"
    asked = [Requirement(f"some>={least}"), Requirement("other<100")]
    told = doctor._extra("build", "building", asked, {"some": installed, "other": "1"}.get)
    assert (told.state == "here") == (found[0] >= least)
    if told.state != "here":
        assert told.found == f"some {installed}, not >={least}"
        assert "[build]" in told.do


def test_a_package_that_is_not_there_is_named():
    told = doctor._extra("service", "serve", [Requirement("uvicorn>=1")], lambda _: None)
    assert (told.state, told.found, told.costs) == ("missing", "no uvicorn", "serve cannot run")


@pytest.mark.parametrize(
    ("missing", "needed", "code"),
    [((), ("build",), 0), (("torch",), ("build",), 1), (("torch",), ("service",), 0)],
)
def test_exit_codes_are_those_of_every_command(missing, needed, code, monkeypatch, tmp_path):
    asked = ["torch>=2; extra == 'build'", "uvicorn; extra == 'service'"]
    monkeypatch.setattr(doctor, "requires", lambda _: asked)
    monkeypatch.setattr(doctor, "_version", lambda name: None if name in missing else "2.13")
    file = tmp_path / "found.json"
    given_ = [part for name in needed for part in ("--need", name)]
    done = CliRunner().invoke(main, ["doctor", *given_, "--json", str(file)])
    assert done.exit_code == code, done.output
    found = json.loads(file.read_text())
    assert found["target"] == detect().name
    states = {each["part"]: each["state"] for each in found["findings"]}
    assert states["build"] == ("missing" if missing else "here")
    assert ("edgeprune: build is not here" in done.stderr) == bool(code)
    for each in found["findings"]:
        assert (each["state"] == "here") == (each["costs"] == "")


def test_it_runs_where_only_a_device_s_packages_are():
    code = """
from click.testing import CliRunner
from edgeprune.cli import main
done = CliRunner().invoke(main, ["doctor"])
print(done.exit_code, done.output)
"""
    shown = on_a_device(code)
    assert shown.startswith("0 ")
    assert detect().name in shown
