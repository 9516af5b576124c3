"""What users and their programs meet, beside golden files: operators, help, dry runs, manifest.

`make golden` writes the files anew. Targets are named, so that they are the same on every machine.
"""

import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import onnx
import pytest
import torch
from click.testing import CliRunner
from golden import compare_entries, compare_text
from speeds import make_speed, named_by_side
from tiny_builds import RECIPE, model_folder, recipe_file, text_file
from tiny_models import (
    CLASSIFIERS,
    DECODERS,
    EMITTED_DECODERS,
    ENCODERS,
    FUSED_DECODERS,
    FUSED_POST_NORMED,
    MIXTURES,
    ODD_DECODERS,
    POST_NORMED,
    make_batch,
    make_model,
)

from edgeprune.cli import main
from edgeprune.compress.quantize.model import quantize_model
from edgeprune.compress.quantize.settings import QuantizeSettings
from edgeprune.export.rewrite.run import rewrite
from edgeprune.export.rewrite.stage import emitted_graph
from edgeprune.export.trace import export_onnx
from edgeprune.model.store import save_model
from edgeprune.pipeline import terminal
from edgeprune.pipeline.recipe import shipped
from edgeprune.runtime.bundle import Bundle
from edgeprune.targets import find

WIDTH = 100

# operators -------------------------------------------------------------------------------------

FAMILIES = tuple(
    dict.fromkeys(
        (
            *(*ENCODERS, *CLASSIFIERS, *DECODERS, *FUSED_DECODERS),
            *(*EMITTED_DECODERS, *ODD_DECODERS, *MIXTURES),
            *(*POST_NORMED, *FUSED_POST_NORMED, "gemma3_text-encoder"),
        )
    )
)
PLAIN = {"massive_activations": "none"}
FORMATS: dict[str, dict[str, Any] | None] = {
    "float32": None,
    "int8": {},
    "int8 a scale per token": {"activations": "token"},
    "int8 static": {"activations": "static"},
    "int4": {"weights": "int4"},
    "int4 asymmetric": {"weights": "int4", "symmetric": False},
    "int8-groups": {"weights": "int8-groups"},
    "mixed": {"weights": "mixed", "average_bits": 7.5},
    "float head and embeddings": {"head": False, "embeddings": False},
}
OF_DECODERS: dict[str, dict[str, Any] | None] = {
    "prefer decode": {"prefer": "decode"},
    "unpacked head": {"unpacked_head": True},
    "cache of 8 bits": {"cache_bits": 8},
    "cache of 4 bits": {"cache_bits": 4},
}
TARGETS = ("x86-avx512-vnni", "x86-avx2", "arm-dotprod")
BY_TARGET = ("int8", "prefer decode")
"""Formats that a target may decide."""
WHOLE = ("bert", "llama-fused")
"""Of which every format is compared; of the others, INT8."""


def operators(family: str, formats: dict[str, Any], folder: Path) -> dict[str, dict[str, int]]:
    """How many nodes of each kind rewritten graphs have: "family, format, target" -> counts."""
    found = {}
    batch = make_batch()
    feed = {name: value.numpy() for name, value in batch.items()}
    for name, options in formats.items():
        for target in TARGETS if family in WHOLE and name in BY_TARGET else TARGETS[:1]:
            place = folder / f"{name}, {target}"
            model = make_model(family, place / "plain", unequal=False)
            settings = None if options is None else QuantizeSettings(**PLAIN, **options)
            quantized = None
            if settings is not None:
                quantized = quantize_model(model, [batch], settings, find(target))
            path = place / "rewritten.onnx"
            bits = settings.cache_bits if settings else None
            save_model(model, place / "stage")
            start = emitted_graph(place / "stage", find(target), [feed])
            start = start or export_onnx(model, place)
            rewrite(start, path, model.anatomy, quantized, [feed], find(target), bits)
            graph = onnx.load(path, load_external_data=False).graph
            found[f"{family}, {name}, {target}"] = dict(
                sorted(Counter(_kind(node) for node in graph.node).items())
            )
    return found


def _kind(node: onnx.NodeProto) -> str:
    return f"{node.domain}.{node.op_type}" if node.domain else node.op_type


@pytest.mark.parametrize("family", FAMILIES)
def test_operators(family, tmp_path):
    torch.manual_seed(0)
    decoders = OF_DECODERS if family in FUSED_DECODERS else {}
    chosen = {**FORMATS, **decoders} if family in WHOLE else {"int8": FORMATS["int8"]}
    compare_entries("operators.json", operators(family, chosen, tmp_path))


# help ------------------------------------------------------------------------------------------


def commands(command: click.Command, *names: str) -> Iterator[tuple[str, ...]]:
    """Every command below one, and itself."""
    yield names
    if isinstance(command, click.Group):
        for name, inner in sorted(command.commands.items()):
            yield from commands(inner, *names, name)


def test_help():
    runner = CliRunner()
    parts = []
    for names in commands(main):
        shown = runner.invoke(main, [*names, "--help"], prog_name="edgeprune", terminal_width=WIDTH)
        assert shown.exit_code == 0, shown.output
        parts.append(f"$ {' '.join(('edgeprune', *names))} --help\n\n{shown.stdout}")
    compare_text("help.txt", "\n".join(parts))


# dry runs --------------------------------------------------------------------------------------

SHORT = (
    "text.held_out=0.2",
    "text.max_tokens=32",
    "measure.tokens=16",
    "measure.task=null",
    "measure.data=null",
)
KINDS = {"classifier": "classifier", "decoder": "llama-fused"}


def test_dry_runs(tmp_path, monkeypatch):
    """Of the recipes that ship, on tiny models."""
    # A console asks for the terminal's width when it is made, which an earlier test may have done.
    monkeypatch.setattr(terminal._console, "_width", WIDTH)
    monkeypatch.chdir(tmp_path)
    parts = []
    for name in shipped():
        family = KINDS.get(name.split("-")[0], "bert")
        model = model_folder(Path("a") / family, family)
        data = text_file(Path("text.jsonl" if family == "classifier" else "text.txt"))
        settings = [part for each in (f"target={TARGETS[0]}", *SHORT) for part in ("--set", each)]
        given = ["build", name, "--dry-run", "--model", str(model), "--data", str(data), *settings]
        shown = CliRunner().invoke(main, given, terminal_width=WIDTH)
        assert shown.exit_code == 0, shown.stderr
        # Of what was calculated in floats, no digit.
        text = re.sub(r"by 0\.\d+ of their size", "by SOME of their size", shown.stdout)
        parts.append(f"$ edgeprune build {name} --dry-run\n\n{text}")
    compare_text("dry-runs.txt", "\n".join(parts))


# manifest --------------------------------------------------------------------------------------

OTHERS = """
name: other
text: {max_tokens: 16, batch_tokens: 256, held_out: 0.2, held_out_samples: 16}
target: x86-avx512-vnni
cut: {channels: 0.5, heads: 0.5, samples: 8}
quantize: {weights: int4, calibration_samples: 8, method: gptq}
measure: {tokens: 12, seconds: 0.1, launches: 1, profile: false, curve: [], stages: false}
"""


def schema(content: Any, place: str = "") -> Iterator[tuple[str, str]]:
    """Where values lie and of which types they are; names of tensors and the like are all one."""
    if isinstance(content, dict):
        for key, value in content.items():
            one = "NAME" if re.search(r"[./ ]", key) or place == "made_with" else key
            yield from schema(value, f"{place}.{one}".removeprefix("."))
    elif isinstance(content, list):
        named = [each.get("name") if isinstance(each, dict) else None for each in content]
        for value, name in zip(content, named, strict=True):
            stage = place == "stages" and name
            yield from schema(value, f"{place}[{name if stage else ''}]")
    else:
        yield place, type(content).__name__


@pytest.mark.parametrize(
    ("family", "recipe"),
    [
        ("bert", f"target: x86-avx512-vnni\n{RECIPE}"),
        pytest.param("classifier", OTHERS, marks=pytest.mark.slow),
        ("llama", OTHERS),
    ],
)
def test_manifest(family, recipe, tmp_path, monkeypatch):
    """Keys and types that a bundle's manifest has, which programs read."""
    model = model_folder(tmp_path / "model", family)
    name = "text.jsonl" if family == "classifier" else "text.txt"
    text = text_file(tmp_path / name, 120)  # so that a tenth has more than ten neighbours
    task = {"llama": "text-generation", "bert": "feature-extraction"}
    speed = named_by_side(make_speed(task.get(family, "text-classification")))
    monkeypatch.setattr("edgeprune.pipeline.measure.stage.compare", lambda *_: speed)
    given = ["--model", model, "--data", text, "--output", tmp_path / "out"]
    built = CliRunner().invoke(
        main, ["build", str(recipe_file(tmp_path / "r.yaml", recipe)), *map(str, given)]
    )
    assert built.exit_code == 0, built.output
    manifest = Bundle.open(tmp_path / "out" / "bundle").manifest
    kinds: dict[str, set[str]] = {}
    for place, kind in schema(manifest):
        kinds.setdefault(place, set()).add(kind)
    lines = [f"{place}: {' or '.join(sorted(found))}" for place, found in sorted(kinds.items())]
    compare_text(f"manifest-{family}.txt", "\n".join(lines) + "\n")
