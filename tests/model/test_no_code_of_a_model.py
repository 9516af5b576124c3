"""Code that lies in a model's folder never runs, wherever transformers would take it from, and
though standard input says "y" to its question."""

import ast
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner
from tiny_builds import model_folder, recipe_file, text_file

import edgeprune
from edgeprune.cli import main

PLACES = {
    "configuration_planted.py": "AutoConfig",
    "modeling_planted.py": "AutoModel",
    "tokenization_planted.py": "AutoTokenizer",
    "processing_planted.py": "AutoProcessor",
    "custom_generate/generate.py": None,
    "custom_st.py": None,
    "sitecustomize.py": None,
    "torch.py": None,
}
"""Files of code, and the class of transformers that `auto_map` gives each to."""
NAMED = {auto: f"{Path(file).stem}.Planted" for file, auto in PLACES.items() if auto}
AUTO_MAPS = {
    "config.json": {name: NAMED[name] for name in ("AutoConfig", "AutoModel")},
    "tokenizer_config.json": {"AutoTokenizer": [NAMED["AutoTokenizer"], None]},
    "processor_config.json": {"AutoProcessor": NAMED["AutoProcessor"]},
    "preprocessor_config.json": {"AutoProcessor": NAMED["AutoProcessor"]},
    "generation_config.json": {"AutoConfig": NAMED["AutoConfig"]},
}


def plant(model: Path, ran: Path) -> None:
    """Code that leaves a mark when it runs, everywhere."""
    for name in PLACES:
        (model / name).parent.mkdir(exist_ok=True)
        (model / name).write_text(f"open({str(ran)!r}, 'a').write({name!r} + '\\n')\n")


def name_code(model: Path, file: str) -> None:
    """Let a file of settings ask for the planted code."""
    path = model / file
    content = json.loads(path.read_text()) if path.exists() else {}
    path.write_text(json.dumps(content | {"auto_map": AUTO_MAPS[file]}))


def answered_yes(folder: Path, script: str) -> str:
    """What a script of Python writes on standard error, in a process that stands in `folder`."""
    found = subprocess.run(
        [sys.executable, "-P", "-c", script],
        input="y\n" * 20,
        capture_output=True,
        text=True,
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(Path(edgeprune.__file__).parents[1])},
        check=False,
    )
    assert found.returncode == 0, found.stderr
    return found.stderr


@pytest.fixture
def made(tmp_path) -> Path:
    model_folder(tmp_path / "model")
    text_file(tmp_path / "text.txt")
    recipe_file(tmp_path / "tiny.yaml", "text: {max_tokens: 16}\nmeasure: {tokens: 12}\n")
    plant(tmp_path / "model", tmp_path / "ran")
    return tmp_path


def refused(made: Path, *options: str) -> str:
    """The sentence of a build that is refused while standard input says "y"."""
    where = ["--model", made / "model", "--data", made / "text.txt", "--output", made / "out"]
    arguments = ["build", made / "tiny.yaml", *where, *options]
    result = CliRunner().invoke(main, list(map(str, arguments)), input="y\n" * 20)
    assert result.exit_code == 2, result.output
    assert not (made / "ran").exists()
    assert not (made / "out").exists()
    [said] = result.stderr.strip().splitlines()
    return said.removeprefix("edgeprune: ")


@pytest.mark.parametrize("file", AUTO_MAPS)
def test_settings_that_name_code_are_refused_before_anything_is_loaded(file, made):
    name_code(made / "model", file)
    for options in ([], ["--dry-run"]):
        said = refused(made, *options)
        assert said.startswith(f"{made / 'model' / file} names code to be run with the model")
        kind = json.loads((made / "model/config.json").read_text())["model_type"]
        assert f"remove auto_map, for models of type {kind} are known here without it" in said


def test_a_model_that_is_nothing_without_its_code_is_told_so(made):
    name_code(made / "model", "config.json")
    file = made / "model/config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"model_type": "planted"}))
    said = refused(made, "--dry-run")
    assert "auto_map" in said
    assert said.endswith("cannot be used, for its type is not among those that are known here.")


def test_a_module_of_code_for_embeddings_is_refused(made):
    kinds = ("custom_st.Transformer", "sentence_transformers.models.Pooling")
    (made / "model/modules.json").write_text(json.dumps([{"type": kind} for kind in kinds]))
    assert "has a custom_st.Transformer module, which edgeprune does not run" in refused(made)


LOADED = """
from pathlib import Path
from edgeprune.model.checkpoint import open_checkpoint
from edgeprune.export.trace import export_plain
from edgeprune.model.importing import import_checkpoint, import_tokenizer
export_plain(Path("."), Path("../plain"))
Path("tokenizer.json").unlink()
import_tokenizer(open_checkpoint("."), Path("../tokenizer"))
"""


def test_code_that_nothing_names_is_left_alone(made):
    """The model, and a tokenizer without tokenizer.json, are read by transformers, which finds
    code beside them."""
    model = model_folder(made / "model", "llama")  # what generates may have code for that, too
    words = json.loads((model / "tokenizer.json").read_text())["model"]["vocab"]
    (model / "vocab.txt").write_text("\n".join(sorted(words, key=words.__getitem__)))
    settings = json.loads((model / "tokenizer_config.json").read_text())
    settings["tokenizer_class"] = "BertTokenizer"
    (model / "tokenizer_config.json").write_text(json.dumps(settings))
    answered_yes(model, LOADED)
    assert (made / "plain/onnx/model.onnx").exists()
    assert (made / "tokenizer/tokenizer.json").exists()
    assert not (made / "ran").exists()
    assert not list((made / "plain").rglob("*.py"))


def test_the_planted_code_would_run(made):
    """What the tests above rule out: transformers, asked without an answer of ours."""
    config = {"model_type": "planted", "auto_map": AUTO_MAPS["config.json"]}
    (made / "model/config.json").write_text(json.dumps(config))
    ask = (
        f"import contextlib, os; os.environ['HF_HOME'] = {str(made / 'home')!r}\n"
        "import transformers\n"
        "with contextlib.suppress(AttributeError):\n"
        "    transformers.AutoConfig.from_pretrained('.')\n"
    )
    answered_yes(made / "model", ask)
    assert (made / "ran").read_text() == "configuration_planted.py\n"


def test_one_call_reads_what_users_name():
    root = Path(edgeprune.__file__).parent
    calls = [
        (file.relative_to(root).as_posix(), {keyword.arg for keyword in node.keywords})
        for file in root.rglob("*.py")
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and node.func.attr in ("from_pretrained", "from_config", "pipeline", "SentenceTransformer")
    ]
    assert [file for file, _ in calls] == ["model/importing.py"]
    assert "trust_remote_code" in calls[0][1]
