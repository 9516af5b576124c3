"""The house's laws, by running without torch and by reading the code as a tree."""

import ast
import re
from pathlib import Path

import pytest
from house import FILES_ABOVE, ROOMS, Import, circle, floor, imports, room
from on_device import FILES, ROOT, modules, on_a_device
from tiny_builds import model_folder, text_file

from edgeprune.model.families import known_model_types

FIRST = Path(__file__).parent / "fixtures" / "first_release" / "encoder"

# Law 1 -----------------------------------------------------------------------------------------


def test_the_refusal_refuses():
    for name in ("torch", "transformers", "onnx"):
        code = f"try:\n    import {name}\nexcept ImportError as e:\n    print(e)"
        assert on_a_device(code) == f"{name} is not installed on a device\n"


def test_what_a_device_needs_imports_without_torch():
    names = modules(
        "base",
        "targets",
        "text",
        "model/families",
        "model/tasks",
        "model/anatomy",
        "model/checkpoint",
        "runtime",
        "measure",
        "report",
        "pipeline/recipe",
        "pipeline/preview",
        "pipeline/run",
        "pipeline/checks",
        "cli",
    )
    code = f"import importlib\nfor name in {names!r}: importlib.import_module(name)\nprint('all')"
    assert on_a_device(code) == "all\n"


def test_every_settings_file_imports_without_torch():
    names = [name for name in modules(".") if name.endswith("settings")]
    assert len(names) >= 7
    code = f"import importlib\nfor name in {names!r}: importlib.import_module(name)\nprint('all')"
    assert on_a_device(code) == "all\n"


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    return model_folder(tmp_path_factory.mktemp("model"))


def test_recipes_dry_runs_and_inspection_work_without_torch(model, tmp_path):
    text = text_file(tmp_path / "text.txt")
    build = ["--model", str(model), "--data", str(text), "--output", str(tmp_path / "out")]
    build += ["--set", "measure.tokens=16"]
    commands = [
        ["--help"],
        ["recipes"],
        ["recipes", "encoder"],
        ["build", "encoder", "--dry-run", *build],
        ["inspect", str(model)],
        ["build", "decoder", "--dry-run", "--model", str(tmp_path)],
    ]
    code = f"""
from click.testing import CliRunner
from edgeprune.cli import main
for command in {commands!r}:
    result = CliRunner().invoke(main, command)
    print("<" + command[0], result.exit_code)
    print(result.stdout, result.stderr)
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
"""
    shown = on_a_device(code)
    assert re.findall(r"^<(\S+) (\d)$", shown, re.M) == [
        ("--help", "0"),
        ("recipes", "0"),
        ("recipes", "0"),
        ("build", "0"),
        ("inspect", "0"),
        ("build", "2"),
    ]
    assert "encoder-fast" in shown
    assert "prune.sparsity" in shown
    assert "46 of 80 channels go" in shown
    assert "massive activations are looked for where" in " ".join(shown.split())
    assert "holds no model" in shown
    assert not (tmp_path / "out").exists()


def test_commands_of_a_device_work_without_torch_and_onnx(tmp_path):
    """On what the first release built: nothing here has made a graph."""
    bundle = FIRST / "bundle"
    graph, saved = bundle / "onnx" / "model.onnx", tmp_path / "saved.json"
    brief = ["--tokens", "12", "--time-limit", "0.1", "--launches", "1"]
    cosine = ["--task", "cosine", "--data", FIRST / "texts.txt", "--against", FIRST / "original"]
    commands = [
        ["doctor"],
        ["inspect", bundle],
        ["run", bundle, "w001 w002"],
        ["bench", graph, *brief],
        ["check", bundle, "--save", saved, *brief],
        ["evaluate", bundle, *cosine],
    ]
    words = [[str(word) for word in command] for command in commands]
    code = f"""
from pathlib import Path
from click.testing import CliRunner
import edgeprune
from edgeprune.cli import main
from edgeprune.measure.bench.beside import time_beside
from edgeprune.measure.bench.settings import BenchSettings
for command in {words!r}:
    result = CliRunner().invoke(main, command)
    print("<" + command[0], result.exit_code, result.stderr)
settings = BenchSettings(tokens=12, launches=1, time_limit=0.1, turn_seconds=0.01, min_rounds=2)
timed = time_beside([Path({str(graph)!r})], settings, None)
print("<calibrate", int(timed.seconds[0] <= 0))
print("<load", edgeprune.load({str(bundle)!r}).embed(["w001"]).shape[1] - 32)
print("<", *({{"torch", "transformers", "onnx"}} & set(sys.modules)))
"""
    shown = on_a_device(code)
    names = ("doctor", "inspect", "run", "bench", "check", "evaluate", "calibrate", "load")
    found = re.findall(r"^<(\w+) (\d+)", shown, re.M)
    assert found == [(name, "0") for name in names], shown
    assert shown.endswith("<\n")


def test_a_real_build_says_what_is_missing(model, tmp_path):
    """On a device, building is refused with a sentence, not a traceback."""
    text = text_file(tmp_path / "text.txt")
    command = ["build", "encoder-int8", "--model", str(model), "--data", str(text)]
    command += ["--set", "measure.tokens=16", "--output", str(tmp_path / "out")]
    code = f"""
from click.testing import CliRunner
from edgeprune.cli import main
result = CliRunner().invoke(main, {command!r})
print(result.exit_code, result.stderr)
"""
    shown = on_a_device(code)
    assert shown.startswith("2 ")
    assert "pip install '.[build]'" in shown
    assert not (tmp_path / "out").exists()


# Law 3 -----------------------------------------------------------------------------------------


def words_of(text: str) -> set[str]:
    """Lower-case words of an identifier or a string, parted at case and punctuation."""
    parted = re.sub(r"([a-z0-9])([A-Z])", r"\1 \2", text)
    return set(re.split(r"[^a-z0-9]+", parted.lower()))


def spoken(tree: ast.AST) -> list[tuple[int, str]]:
    """(line, text) of every identifier and string that is code: no comments, no docstrings, and
    no prose (a description or an error's sentence)."""
    documented = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    prose = set()
    for node in ast.walk(tree):
        if isinstance(node, documented) or hasattr(node, "body"):
            for statement in getattr(node, "body", []) if isinstance(node.body, list) else []:
                if isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant):
                    prose.add(statement.value)
    found = []
    for node in ast.walk(tree):
        line = getattr(node, "lineno", 0)
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and node not in prose:
            if " " not in node.value.strip():
                found.append((line, node.value))
        elif isinstance(node, ast.Name):
            found.append((line, node.id))
        elif isinstance(node, ast.Attribute):
            found.append((line, node.attr))
        elif isinstance(node, ast.arg | ast.keyword) and node.arg:
            found.append((line, node.arg))
        elif isinstance(node, (*documented[1:], ast.alias)):
            found.append((line, node.name))
    return found


def test_only_one_file_knows_the_families():
    families = {word for name in known_model_types() for word in name.split("-")} - {"xlm"}
    assert {"bert", "llama", "mpnet"} <= families
    families |= {"gpt", "gpt2", "gemma", "phi", "opt", "bloom", "t5", "smollm", "deberta"}
    # A file of sentence-transformers', which every kind of encoder has.
    allowed = {"sentence_bert_config.json"}
    found = [
        f"{file.relative_to(ROOT)}:{line} {text}"
        for file in FILES
        if file.relative_to(ROOT).as_posix() != "model/families.py"
        for line, text in spoken(ast.parse(file.read_text(encoding="utf-8")))
        if text not in allowed and words_of(text) & families
    ]
    assert found == []


def test_the_search_for_families_finds_them():
    code = (
        '"""Of bert."""\n# llama\nx = "BertModel"\n'
        'class LlamaThing:\n    """bert"""\ny = z.is_qwen3\n"a sentence on bert"\nw == "mpnet"\n'
    )
    hits = {text for _, text in spoken(ast.parse(code))}
    assert {"BertModel", "LlamaThing", "mpnet", "is_qwen3"} <= hits
    assert "a sentence on bert" not in hits


# Law 6 -----------------------------------------------------------------------------------------


def test_only_bench_times_anything():
    clocks = {"perf_counter", "perf_counter_ns", "timeit", "process_time", "thread_time"}
    found = [
        file.relative_to(ROOT).as_posix()
        for file in FILES
        if clocks & {text for _, text in spoken(ast.parse(file.read_text(encoding="utf-8")))}
    ]
    assert found  # bench/ does
    assert {file.rpartition("/")[0] for file in found} == {"measure/bench"}


def test_only_one_file_traces():
    found = [
        file.relative_to(ROOT).as_posix()
        for file in FILES
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8")))
        if isinstance(node, ast.Attribute) and ast.unparse(node) in ("torch.onnx", "torch.export")
    ]
    assert set(found) == {"export/trace.py"}


# Law 9 -----------------------------------------------------------------------------------------


def test_the_package_is_its_rooms_and_little_else():
    entries = {path.name for path in ROOT.iterdir()} - {"__pycache__"}
    assert entries - set(ROOMS) <= set(FILES_ABOVE)
    assert {room(file.relative_to(ROOT).as_posix()) for file in FILES} - {""} <= set(ROOMS)


@pytest.fixture(scope="module")
def found() -> list[Import]:
    return imports(ROOT)


def test_every_import_points_down_the_list_of_rooms(found):
    assert len(found) > len(FILES)
    up = [each for each in found if floor(each.of) > floor(each.file)]
    assert [str(each) for each in up] == []


def test_no_files_import_each_other_in_a_circle(found):
    assert circle({each.edge for each in found}) == []


def test_the_search_for_imports_finds_them(tmp_path):
    house = tmp_path / "house"
    for name, code in {
        "__init__.py": "",
        "base/words.py": "import house\nfrom house import __version__",
        "text/__init__.py": "import os.path\nx = 'house.json'",
        "text/files.py": "def f():\n    from house.base import words\n    import house.cli",
        "model/a.py": "if TYPE_CHECKING:\n    import house.model.b",
        "model/b.py": "X = R('house.model.a:run')\nfrom house.text import a\nimport house.text",
        "cli.py": "run('import house.text.files')\nfrom house import build\n'a house.base.words'",
    }.items():
        (house / name).parent.mkdir(parents=True, exist_ok=True)
        (house / name).write_text(code)
    found = imports(house)
    assert found == [
        Import("cli.py", 1, "text/files.py"),
        Import("cli.py", 2, "__init__.py"),
        Import("model/a.py", 2, "model/b.py"),
        Import("model/b.py", 1, "model/a.py"),
        Import("model/b.py", 2, "text/__init__.py"),
        Import("model/b.py", 3, "text/__init__.py"),
        Import("text/files.py", 2, "base/words.py"),
        Import("text/files.py", 3, "cli.py"),
    ]
    up = [each for each in found if floor(each.of) > floor(each.file)]
    assert up == [Import("text/files.py", 3, "cli.py")]
    edges = {each.edge for each in found}
    assert circle(edges) == ["cli.py", "text/files.py", "cli.py"]
    assert circle(edges - {up[0].edge}) == ["model/a.py", "model/b.py", "model/a.py"]
    assert circle(edges - {up[0].edge, ("model/b.py", "model/a.py")}) == []
    with pytest.raises(ValueError, match="not in tuple"):
        floor("attic/a.py")


# Systems ---------------------------------------------------------------------------------------


def test_what_only_some_systems_have_is_never_imported_unguarded():
    """Such as resource and fcntl, which Windows does not have."""
    found = [
        (file.relative_to(ROOT).as_posix(), alias.name)
        for file in FILES
        for statement in ast.parse(file.read_text(encoding="utf-8")).body
        if isinstance(statement, ast.Import)
        for alias in statement.names
        if alias.name in {"resource", "fcntl", "pwd", "grp", "termios"}
    ]
    assert found == []


# What works ------------------------------------------------------------------------------------


def test_nothing_is_told_to_come_from_an_index_that_has_no_release():
    """An install is from a checkout or of a wheel: see edgeprune/base/install.py."""
    told = re.compile(r"pip3? install\b[^\n`]*?[\s'\"]edgeprune(?!-\d)(?=[\s'\"`\[=@.]|$)")
    assert told.search("run `pip install 'edgeprune[build]'`")
    assert told.search("pip install -U edgeprune")
    assert not told.search("pip install ./edgeprune-0.1.0-py3-none-any.whl")
    house = ROOT.parent
    if not (house / "pyproject.toml").is_file():
        pytest.skip("no checkout: the package is installed alone")
    kinds = {".py", ".md", ".yml", ".yaml", ".toml", ".sh", ".html", ".mjs", ".txt", ""}
    places = [house / name for name in ("edgeprune", "deploy", "docs", "benchmarks", "pipelines")]
    files = [file for place in places for file in place.rglob("*") if file.suffix in kinds]
    files += [house / name for name in ("README.md", "pyproject.toml", "Makefile")]
    found = [
        f"{file.relative_to(house)}:{number}"
        for file in files
        if file.is_file()
        for number, line in enumerate(file.read_text(encoding="utf-8").splitlines(), start=1)
        if told.search(line)
    ]
    assert found == []


# Tests -----------------------------------------------------------------------------------------

TESTS = sorted(Path(__file__).parent.rglob("*.py"))
PLACES = {"glob", "rglob", "iterdir"}


def called(node: ast.AST) -> str:
    """The last name of a call, such as "glob" of `folder.glob("*")`."""
    function = getattr(node, "func", None)
    return getattr(function, "attr", "") or getattr(function, "id", "")


def sleeps(tree: ast.AST) -> list[int]:
    return [node.lineno for node in ast.walk(tree) if called(node) == "sleep"]


def empty_loops(tree: ast.AST) -> list[int]:
    """Lines that ask something of every file of a folder, and nothing if it has none."""
    found = []
    for node in ast.walk(tree):
        asks = isinstance(node, ast.For) and any(isinstance(e, ast.Assert) for e in ast.walk(node))
        loops = [node.iter] if asks else []
        if called(node) == "all":
            parts = [part for argument in node.args for part in getattr(argument, "generators", [])]
            loops = [part.iter for part in parts]
        found += [node.lineno for loop in loops if any(called(e) in PLACES for e in ast.walk(loop))]
    return found


def test_tests_wait_for_what_they_see_and_loop_over_what_is_there():
    assert len(TESTS) > 100
    trees = {file: ast.parse(file.read_text(encoding="utf-8")) for file in TESTS}
    found = {
        (kind.__name__, f"{file.name}:{line}")
        for file, tree in trees.items()
        for kind in (sleeps, empty_loops)
        for line in kind(tree)
        if (kind, file.name) != (sleeps, "processes.py")
    }
    assert found == set()


def test_the_search_for_tests_that_cannot_fail_finds_them():
    code = """
time.sleep(1)
for file in sorted(folder.glob("*")):
    assert file
assert all(file for file in folder.iterdir())
for file in files:
    assert file
names = [file for file in folder.iterdir()]
"""
    tree = ast.parse(code)
    assert sleeps(tree) == [2]
    assert empty_loops(tree) == [3, 5]
