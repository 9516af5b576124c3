"""The device's install, from a built wheel in an environment of its own: no torch anywhere."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from tiny_builds import RECIPE, model_folder, recipe_file, text_file

ROOT = Path(__file__).parents[2]
HEAVY = ("torch", "transformers", "onnx", "optimum", "safetensors")


@pytest.mark.slow
def test_a_wheel_runs_a_bundle_and_knows_its_recipes_without_torch(tmp_path: Path) -> None:
    recipe = recipe_file(tmp_path / "tiny.yaml", RECIPE)
    texts = text_file(tmp_path / "texts.txt")
    (tmp_path / "model").mkdir()
    model = model_folder(tmp_path / "model")
    build = [sys.executable, "-m", "edgeprune", "build", recipe, "--model", model]
    subprocess.run([*build, "--data", texts, "--output", tmp_path / "built"], check=True)
    bundle = tmp_path / "built" / "bundle"
    subprocess.run([sys.executable, "-m", "venv", tmp_path / "venv"], check=True)
    python = tmp_path / "venv" / "bin" / "python"
    pip = [python, "-m", "pip", "install", "--quiet", "-c", ROOT / "constraints.txt"]
    subprocess.run([*pip, ROOT], check=True)

    def run(*words: object) -> str:
        done = subprocess.run(
            [python, *words],
            check=True,
            capture_output=True,
            text=True,
            cwd=tmp_path,
            env={"PATH": os.environ["PATH"]},
        )
        return done.stdout

    installed = run("-m", "pip", "list", "--format=freeze").lower()
    assert not [name for name in HEAVY if f"{name}==" in installed]
    recipes = run("-m", "edgeprune", "recipes", "--json", "-")
    shipped = [file.stem for file in (ROOT / "pipelines").glob("*.yaml")]
    assert "encoder" in shipped
    assert [name for name in shipped if f'"{name}"' not in recipes] == []
    assert "steps" in run("-m", "edgeprune", "recipes", "encoder")
    assert "32 numbers" in run("-m", "edgeprune", "run", bundle, "w001 w002")
    assert "operators" in run("-m", "edgeprune", "inspect", bundle)
