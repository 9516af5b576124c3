"""Mutation testing of the numerics: how many small faults in the code the tests notice.

    python benchmarks/mutation.py [FILE ...] [--fresh]        or: make mutation

One fault at a time is planted into a file: a comparison, an operator, a number, a truth value, a
condition, a result, a call. Torch is loaded and the tests are collected once; each fault is tried
in a forked process, on the tests that call the function it is in. A fault that some test fails on,
or that never ends, is killed; the others survive.

What was tried is a line each in build/mutation.jsonl, so that a run that was stopped goes on; a
line holds as long as the file and, of survivors, its tests are the same (--fresh: none). The score
and every survivor go to benchmarks/results/mutation.json. There, `why` says why a survivor is
left; it is written by hand and kept for as long as the fault survives.
"""

import argparse
import ast
import copy
import hashlib
import importlib
import json
import math
import os
import resource
import sys
import time
import types
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import hypothesis
import pytest
from results_file import add_result, read_results

ROOT = Path(__file__).resolve().parents[1]
LOG = ROOT / "build" / "mutation.jsonl"
RESULTS = ROOT / "benchmarks" / "results" / "mutation.json"
TARGETS: dict[str, list[str]] = {
    "edgeprune/base/budget.py": ["tests/base/test_apportioning.py"],
    "edgeprune/compress/maths/knapsack.py": ["tests/compress/maths/test_knapsack.py"],
    "edgeprune/compress/maths/obs.py": ["tests/compress/maths/test_obs.py"],
    "edgeprune/compress/maths/ranking.py": ["tests/compress/maths/test_ranking.py"],
    "edgeprune/compress/prune/ranking.py": ["tests/compress/maths/test_ranking.py"],
    "edgeprune/compress/prune/patterns.py": ["tests/compress/prune/test_patterns.py"],
    "edgeprune/compress/quantize/grid.py": ["tests/compress/quantize/test_grid.py"],
    "edgeprune/compress/quantize/scheme.py": ["tests/compress/quantize/test_grid.py"],
}
"""Each file and the tests that must notice a fault in it."""

_OPERATORS: dict[type, tuple[type, ...]] = {
    ast.Lt: (ast.LtE, ast.GtE),
    ast.LtE: (ast.Lt, ast.Gt),
    ast.Gt: (ast.GtE, ast.LtE),
    ast.GtE: (ast.Gt, ast.Lt),
    ast.Eq: (ast.NotEq,),
    ast.NotEq: (ast.Eq,),
    ast.Is: (ast.IsNot,),
    ast.IsNot: (ast.Is,),
    ast.In: (ast.NotIn,),
    ast.NotIn: (ast.In,),
    ast.Add: (ast.Sub,),
    ast.Sub: (ast.Add,),
    ast.Mult: (ast.Div,),
    ast.Div: (ast.Mult,),
    ast.FloorDiv: (ast.Div, ast.Mult),
    ast.Mod: (ast.FloorDiv,),
    ast.Pow: (ast.Mult,),
    ast.BitAnd: (ast.BitOr,),
    ast.BitOr: (ast.BitAnd,),
    ast.And: (ast.Or,),
    ast.Or: (ast.And,),
}
_NAMES = {"min": "max", "floor": "ceil", "any": "all", "amin": "amax", "minimum": "maximum"}
_NAMES |= {other: name for name, other in _NAMES.items()}
_ANNOTATIONS = ("annotation", "returns", "decorator_list")
_LONGEST = 4e9
"""Bytes of memory that a planted fault may take beside what is there."""


@dataclass(frozen=True)
class Mutant:
    """A file with one fault."""

    line: int
    text: str
    """The line, without its indentation."""
    change: str
    """What stood there and what stands there now."""
    tree: ast.Module

    @property
    def name(self) -> str:
        """Which fault it is, wherever its line has moved to."""
        return f"{self.text} | {self.change}"


def mutants(source: str) -> list[Mutant]:
    """Every fault of a source, in the order of its lines."""
    tree, lines = ast.parse(source), source.splitlines()
    found = []
    for node in _nodes(tree):
        for field, value in _faults(node):
            before, was = ast.unparse(node), getattr(node, field)
            setattr(node, field, value)
            after, faulty = ast.unparse(node), ast.fix_missing_locations(copy.deepcopy(tree))
            setattr(node, field, was)
            line = lines[node.lineno - 1].strip()
            found.append(Mutant(node.lineno, line, f"{before} -> {after}", faulty))
    return sorted(found, key=lambda mutant: mutant.line)


def _nodes(node: ast.AST) -> Iterator[ast.AST]:
    """What of a tree runs: no annotations, decorators, documentation or messages."""
    if isinstance(node, ast.Raise | ast.JoinedStr):
        return
    yield node
    for field, value in ast.iter_fields(node):
        if field not in _ANNOTATIONS:
            for child in value if isinstance(value, list) else [value]:
                if isinstance(child, ast.AST):
                    yield from _nodes(child)


def _faults(node: ast.AST) -> Iterator[tuple[str, Any]]:
    """A node's fields with a faulty value each."""
    if isinstance(node, ast.Compare):
        for place, operator in enumerate(node.ops):
            for other in _OPERATORS[type(operator)]:
                yield "ops", [*node.ops[:place], other(), *node.ops[place + 1 :]]
    elif isinstance(node, ast.BinOp | ast.AugAssign | ast.BoolOp):
        for other in _OPERATORS.get(type(node.op), ()):
            yield "op", other()
    elif isinstance(node, ast.UnaryOp):
        yield "operand", ast.UnaryOp(node.op, node.operand)  # twice, which is not at all
    elif isinstance(node, ast.Constant) and isinstance(node.value, int | float):
        yield "value", not node.value if isinstance(node.value, bool) else node.value + 1
    elif isinstance(node, ast.If | ast.While | ast.IfExp):
        yield "test", ast.UnaryOp(ast.Not(), node.test)
    elif isinstance(node, ast.Return) and node.value is not None:
        yield "value", ast.Constant(None)
    elif isinstance(node, ast.Name | ast.Attribute):
        field = "id" if isinstance(node, ast.Name) else "attr"
        if (name := getattr(node, field)) in _NAMES:
            yield field, _NAMES[name]
    elif isinstance(node, ast.Expr) and isinstance(node.value, ast.Call):
        yield "value", ast.Constant(None)


def plant(module: types.ModuleType, tree: ast.Module) -> None:
    """Let a loaded module, and whoever imported from it, run the code of `tree`."""
    new = {"__name__": module.__name__, "__file__": module.__file__}
    exec(compile(tree, str(module.__file__), "exec"), new)
    for name, value in new.items():
        if not name.startswith("__"):
            _replace(module, name, value, module.__name__)


def _replace(owner: Any, name: str, value: Any, module: str) -> None:
    was = vars(owner).get(name)
    if isinstance(was, types.FunctionType) and isinstance(value, types.FunctionType):
        if len(was.__code__.co_freevars) == len(value.__code__.co_freevars):
            was.__code__, was.__defaults__ = value.__code__, value.__defaults__
            was.__kwdefaults__ = value.__kwdefaults__
        else:  # a method that no longer calls super()
            setattr(owner, name, value)
    elif isinstance(was, classmethod | property):
        inner = "fget" if isinstance(was, property) else "__func__"
        getattr(was, inner).__code__ = getattr(value, inner).__code__
    elif isinstance(was, type) and was.__module__ == module:
        for each, inside in list(vars(value).items()):
            if each not in ("__dict__", "__weakref__", "__doc__", "__module__"):
                _replace(was, each, inside, module)
    elif not isinstance(was, type | types.ModuleType):
        setattr(owner, name, value)


class Trial:
    """A pytest plugin that, in place of running the tests, tries a file's mutants on them."""

    def __init__(self, file: str, fresh: bool) -> None:
        self.file = file
        self.source = (ROOT / file).read_text(encoding="utf-8")
        self.survivors: list[Mutant] = []
        self.count = 0
        self.log = {} if fresh else read_results(LOG)
        tests = b"".join((ROOT / each).read_bytes() for each in TARGETS[file])
        self.keys = {
            "file": hashlib.sha256(self.source.encode()).hexdigest(),
            "tests": hashlib.sha256(tests).hexdigest(),
        }

    def pytest_runtestloop(self, session: pytest.Session) -> bool:
        module = importlib.import_module(self.file.removesuffix(".py").replace("/", "."))
        calls = self._calls(session)
        if self._killed(session, module, Mutant(0, "", "", ast.parse(self.source)), calls):
            print(f"{self.file}: a forked process fails without any fault", flush=True)
            os._exit(1)
        found = mutants(self.source)
        for number, mutant in enumerate(found, start=1):
            self.count += 1
            name = f"{self.file}: {number}: {mutant.name}"
            done = self.log.get(name, {})
            if done.get("file") != self.keys["file"] or not (
                done["killed"] or done["tests"] == self.keys["tests"]
            ):
                done = {"name": name, "killed": self._killed(session, module, mutant, calls)}
                add_result(LOG, done | self.keys)
            if not done["killed"]:
                self.survivors.append(mutant)
                print(f"{self.file}:{mutant.line}: survived: {mutant.change}", flush=True)
        return True

    def _calls(self, session: pytest.Session) -> dict[pytest.Item, tuple[float, set[int]]]:
        """Each test's seconds, and the first lines of the file's functions that it calls; quick
        tests first."""
        place, found = str(ROOT / self.file), {}
        for item in session.items:
            seen: set[int] = set()

            def note(frame: types.FrameType, event: str, _: Any, seen: set[int] = seen) -> None:
                if event == "call" and frame.f_code.co_filename == place:
                    seen.add(frame.f_code.co_firstlineno)

            started = time.process_time()
            sys.setprofile(note)
            item.config.hook.pytest_runtest_protocol(item=item, nextitem=None)
            sys.setprofile(None)
            found[item] = (time.process_time() - started, seen)
            if session.testsfailed:
                print(f"{item.nodeid} fails without any fault", flush=True)
                os._exit(1)
        return dict(sorted(found.items(), key=lambda each: each[1][0]))

    def _killed(
        self,
        session: pytest.Session,
        module: types.ModuleType,
        mutant: Mutant,
        calls: dict[pytest.Item, tuple[float, set[int]]],
    ) -> bool:
        tree = ast.parse(self.source)
        inside = {
            first
            for node in ast.walk(tree)
            if isinstance(node, ast.FunctionDef)
            and node.lineno <= mutant.line <= (node.end_lineno or 0)
            for first in (node.lineno, *(each.lineno for each in node.decorator_list))
        }
        items = [item for item, (_, seen) in calls.items() if (inside & seen if inside else seen)]
        child = os.fork()
        if child:
            return os.waitpid(child, 0)[1] != 0
        try:
            used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
            resource.setrlimit(resource.RLIMIT_AS, (int(used + _LONGEST),) * 2)
            plant(module, mutant.tree)
            for item in items:
                soft = math.ceil(time.process_time() + 2 + 4 * calls[item][0])
                resource.setrlimit(resource.RLIMIT_CPU, (soft, resource.RLIM_INFINITY))
                item.config.hook.pytest_runtest_protocol(item=item, nextitem=None)
                if session.testsfailed:
                    os._exit(1)
            os._exit(0)
        except BaseException:
            os._exit(1)


def main() -> None:
    """Try every file's faults; write the score."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("files", nargs="*", default=list(TARGETS), metavar="FILE")
    parser.add_argument("--fresh", action="store_true", help="try again what was tried")
    given = parser.parse_args()
    os.chdir(ROOT)
    # A fault is noticed or not: the smallest example of it is no matter, nor is chance.
    hypothesis.settings.register_profile(
        "mutation",
        max_examples=50,
        deadline=None,
        derandomize=True,
        database=None,
        phases=[hypothesis.Phase.explicit, hypothesis.Phase.generate],
        suppress_health_check=list(hypothesis.HealthCheck),
    )
    options = ["-p", "no:terminal", "-p", "no:cacheprovider", "--hypothesis-profile=mutation"]
    options += ["-o", "addopts=--import-mode=importlib"]
    # Hypothesis is loaded here already, for its profile; of the tests, warnings are errors.
    options += ["-W", "ignore::pytest.PytestAssertRewriteWarning"]
    kept = json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.exists() else {}
    files = {name: entry for name, entry in kept.get("files", {}).items() if name in TARGETS}
    for file in given.files:
        child = os.fork()  # each file's tests in a process of their own
        if child == 0:
            trial = Trial(file, given.fresh)
            pytest.main([*options, *TARGETS[file]], plugins=[trial])
            before = files.get(file, {}).get("survivors", [])
            whys = {(each["line"], each["change"]): each["why"] for each in before}
            survivors = [
                {"line": line, "change": change, "why": whys.get((line, change), "")}
                for line, change in ((each.text, each.change) for each in trial.survivors)
            ]
            killed = trial.count - len(survivors)
            files[file] = {"faults": trial.count, "killed": killed, "survivors": survivors}
            _write(files)
            os._exit(0)
        if os.waitpid(child, 0)[1]:
            sys.exit(f"{file}: not tried")
        files = json.loads(RESULTS.read_text(encoding="utf-8"))["files"]
    content = json.loads(RESULTS.read_text(encoding="utf-8"))
    for file, entry in content["files"].items():
        print(f"{file}: {entry['killed']} of {entry['faults']} killed")
    print(f"{content['score']} % of {content['faults']} faults killed")


def _write(files: dict[str, Any]) -> None:
    faults = sum(entry["faults"] for entry in files.values())
    killed = sum(entry["killed"] for entry in files.values())
    score = round(100 * killed / faults, 1)
    content = {"score": score, "faults": faults, "killed": killed, "files": files}
    RESULTS.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
