"""The files for clusters: their commands are ours, and what they install exists."""

import re
import shlex
import tomllib
from pathlib import Path

import yaml

from edgeprune.cli import main

ROOT = Path(__file__).parents[2]
RAY = yaml.safe_load((ROOT / "deploy" / "ray" / "cluster.yaml").read_text())
JOB = yaml.safe_load((ROOT / "deploy" / "kubernetes" / "search.yaml").read_text())


def options() -> set[str]:
    return {name for each in main.commands["search"].params for name in each.opts}


def test_the_job_asks_what_the_command_knows():
    program, command, *rest = shlex.split(JOB["spec"]["entrypoint"])
    assert (program, command) == ("edgeprune", "search")
    given = {word for word in rest if word.startswith("--")}
    assert given
    assert given <= options()


def test_the_head_that_times_runs_no_trials():
    cluster = JOB["spec"]["rayClusterSpec"]
    assert cluster["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"
    head = cluster["headGroupSpec"]["template"]["spec"]
    workers = cluster["workerGroupSpecs"][0]["template"]["spec"]
    assert head["volumes"] == workers["volumes"]
    assert head["containers"][0]["image"] == workers["containers"][0]["image"]
    for part in (head, workers):
        names = {volume["name"] for volume in part["volumes"]}
        mounted = part["containers"][0]["volumeMounts"]
        assert {mount["name"] for mount in mounted} == names
        assert mounted[0]["mountPath"] == "/work"
    assert "--output /work/" in JOB["spec"]["entrypoint"]


def test_every_machine_gets_the_extras_that_there_are():
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"][
        "optional-dependencies"
    ]
    named = [re.search(r"\[([a-z,]+)\]", line) for line in RAY["setup_commands"]]
    found = {extra for each in named if each for extra in each[1].split(",")}
    assert found == {"build", "cluster"} <= set(extras)


def test_head_and_workers_begin_alike():
    assert RAY["provider"]["head_ip"] not in RAY["provider"]["worker_ips"]
    assert len(RAY["provider"]["worker_ips"]) == RAY["max_workers"]
    assert all(
        any("ray start" in line for line in RAY[f"{kind}_start_ray_commands"])
        for kind in ("head", "worker")
    )
