"""What is mutated: each kind of file and the command line, with the commands that read it.

The n-th input of a kind is always the same. It is written over its place in a folder where all else
is whole, and one of the kind's commands reads it in a process of its own.
"""

import contextlib
import importlib
import json
import os
import random
import shutil
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import click
from click.testing import CliRunner

from edgeprune.base.processor import processor
from edgeprune.cli import main
from edgeprune.report import canvas
from trust import mutate
from trust.forked import Ended, edgeprune
from trust.kills import SITES, Place

sys.path.insert(0, str(Path(__file__).parents[2] / "tests" / "helpers"))

from on_device import modules
from onnx_models import classifier_folder, decoder_folder, encoder_folder
from tiny_builds import model_folder, sentence_lines

RECIPES = Path(__file__).parents[2] / "pipelines"
TEXT = "w010 w011 w012"
_DRY = ("build", "tiny.yaml", "--dry-run", "--data", "text.txt", "--model")
_EMPTY = '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 1 1"/>'
_COSINE = ("evaluate", "encoder", "--task", "cosine", "--against", "encoder", "--data")


@dataclass(frozen=True)
class Kind:
    """Files of one kind, of which one is mutated, and commands, of which one is run."""

    files: Sequence[str]
    mutated: mutate.Mutation
    commands: Sequence[Sequence[str]]
    """FILE stands for the mutated file."""


KINDS = {
    "recipe": Kind(
        ("tiny.yaml", *(f"pipelines/{file.name}" for file in sorted(RECIPES.glob("*.yaml")))),
        mutate.of_yaml,
        (
            ("build", "FILE", "--dry-run", "--model", "model", "--data", "text.txt"),
            ("build", "FILE", "--dry-run", "--model", "decoder-model", "--data", "text.txt"),
            ("recipes", "FILE"),
        ),
    ),
    "config": Kind(
        ("model/config.json", "decoder-model/config.json", "classifier-model/config.json"),
        mutate.of_json,
        (
            (*_DRY, "FOLDER"),
            ("build", "tiny.yaml", "--dry-run", "--data", "rows.jsonl", "--model", "FOLDER"),
            ("inspect", "FOLDER"),
        ),
    ),
    "tokenizer": Kind(
        ("model/tokenizer.json", "model/tokenizer_config.json", "encoder/tokenizer.json"),
        mutate.of_json,
        ((*_DRY, "model"), ("run", "encoder", TEXT), ("inspect", "FOLDER")),
    ),
    "bundle's config": Kind(
        (
            *("encoder/config.json", "classifier/config.json", "decoder/config.json"),
            *("encoder/tokenizer.json", "classifier/tokenizer.json", "decoder/tokenizer.json"),
        ),
        mutate.of_json,
        (("run", "FOLDER", "the cat"), ("inspect", "FOLDER")),
    ),
    "safetensors": Kind(
        ("model/model.safetensors", "decoder-model/model.safetensors"),
        mutate.of_safetensors,
        (("inspect", "FOLDER"), (*_DRY, "FOLDER")),
    ),
    "gguf": Kind(("model.gguf",), mutate.of_bytes, ((*_DRY, "FILE"), ("inspect", "FILE"))),
    "onnx": Kind(
        ("encoder/model.onnx", "classifier/model.onnx", "decoder/model.onnx"),
        mutate.of_onnx,
        (("inspect", "FOLDER"), ("run", "FOLDER", "the cat")),
    ),
    "manifest": Kind(
        ("built/bundle/edgeprune.json",),
        mutate.of_json,
        (
            ("inspect", "built/bundle"),
            ("run", "built/bundle", TEXT),
            ("report", "built/bundle", "--output", "page.html"),
        ),
    ),
    "report": Kind(
        ("built/report.json",), mutate.of_json, (("report", "built", "--output", "page.html"),)
    ),
    "rows": Kind(
        ("rows.jsonl", "rows.csv", "text.txt"),
        mutate.of_rows,
        (
            ("run", "encoder", "--input", "FILE"),
            ("run", "classifier", "--input", "FILE"),
            ("run", "encoder", "the cat", "--documents", "FILE"),
            (*_COSINE, "FILE"),
            ("evaluate", "encoder", "--task", "sts", "--data", "FILE"),
            ("evaluate", "classifier", "--task", "classification", "--data", "FILE"),
            ("build", "tiny.yaml", "--dry-run", "--model", "model", "--data", "FILE"),
        ),
    ),
}


REQUESTS = "HTTP requests"
"""Which go to one running service: see load.py."""
NAMES = (*KINDS, "command line", REQUESTS)
"""Every row of the part."""


class Workshop:
    """A folder in which all is whole but for one file at a time."""

    def __init__(self, folder: Path, whole: Path) -> None:
        self.folder, self.whole = folder, whole
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(whole, folder)

    def run(self, kind: str, number: int) -> tuple[Ended, list[str], bytes]:
        """The end of the command that read the n-th input of a kind, the command, the input."""
        if kind == "command line":
            draw = random.Random(f"{kind} {number}")
            arguments = command_line(draw)
            ended = edgeprune(arguments, self.folder)
            self._tidy()
            return ended, arguments, b""
        file, arguments, content = made(kind, number, self.whole)
        place = self.folder / file
        place.write_bytes(content)
        try:
            return edgeprune(arguments, self.folder), arguments, content
        finally:
            shutil.copyfile(self.whole / file, place)

    def _tidy(self) -> None:
        """What a command wrote where it was told to must not meet the next."""
        there = {file.relative_to(self.whole) for file in self.whole.rglob("*")}
        for file in sorted(self.folder.rglob("*"), reverse=True):
            if file.relative_to(self.folder) not in there:
                file.rmdir() if file.is_dir() else file.unlink()


def made(kind: str, number: int, whole: Path) -> tuple[str, list[str], bytes]:
    """The n-th input of a kind: the file that is mutated, the command, the file's content."""
    draw, row = random.Random(f"{kind} {number}"), KINDS[kind]
    file = draw.choice(row.files)
    names = {"FILE": file, "FOLDER": Path(file).parent.as_posix()}
    arguments = [names.get(word, word) for word in draw.choice(row.commands)]
    return file, arguments, row.mutated(draw, (whole / file).read_bytes())


def command_line(draw: random.Random) -> list[str]:
    """Some command with some of its options, each with a word that fits or one that does not."""
    name = draw.choice([name for name in main.commands if name != "serve"])
    command = main.commands[name]
    words = [name]
    for parameter in command.params:
        if isinstance(parameter, click.Argument):
            if draw.random() < 0.9:
                words.append(_word(draw, parameter))
        elif draw.random() < 3 / len(command.params):
            words.append(draw.choice(parameter.opts))
            if not getattr(parameter, "is_flag", False):
                words.append(_word(draw, parameter))
    if name in ("build", "search", "calibrate") and "--dry-run" not in words:
        # A real build takes longer than an input may.
        words += ["--dry-run"] if name == "build" else ["--json", "nowhere/at/all.json"]
    if name in ("bench", "check"):
        words += ["--time-limit", "0.1", "--launches", "1", "--tokens", "4"]
    return words


def _word(draw: random.Random, parameter: click.Parameter) -> str:
    fitting = (
        *("encoder", "classifier", "decoder", "built/bundle", "built", "model", "rows.jsonl"),
        *("rows.csv", "text.txt", "tiny.yaml", "the cat", "out.json", "8", "2", "1.5", "sts"),
        *("encoder-int8", "text=label", "quantize.bits=4", "prune.sparsity=2", "bert"),
    )
    choices = getattr(parameter.type, "choices", None)
    if choices and draw.random() < 0.7:
        return str(draw.choice(list(choices)))
    odd = [str(value) for value in mutate.VALUES if isinstance(value, str | int | float)]
    odd = [word for word in odd if "\x00" not in word and word.isprintable()]
    return draw.choice(fitting if draw.random() < 0.6 else [*mutate.WORDS, *odd])


def prepare(folder: Path) -> Path:
    """Make the whole folder, once, and import what commands need, by running some."""
    whole = folder / "whole"
    if not whole.is_dir():
        built = Place(folder / "kills" / "channels", SITES["channels"]).folder / "whole"
        aside = folder / ".whole"
        shutil.rmtree(aside, ignore_errors=True)
        aside.mkdir(parents=True)
        shutil.copytree(built, aside / "built", ignore=shutil.ignore_patterns("stages"))
        _seeds(aside)
        aside.rename(whole)
    for name in modules("base", "runtime", "measure", "report", "text", "pipeline", "cli"):
        importlib.import_module(name)
    processor()  # whose facts take a second
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # else its threads stop at the first fork
    canvas._render = lambda _figure: (
        _EMPTY
    )  # pictures are painted and not rendered: it takes longest
    with contextlib.chdir(whole), TemporaryDirectory() as page:
        for command in (
            *((*_DRY, model) for model in ("model", "decoder-model", "model.gguf")),
            ("report", "built", "--output", f"{page}/page.html"),
        ):
            done = CliRunner().invoke(main, command)
            if done.exit_code:
                raise RuntimeError(f"{command} ends with {done.exit_code}: {done.output}")
    return whole


def _seeds(folder: Path) -> None:
    for family, name in (("bert", "model"), ("llama", "decoder-model")):
        model_folder(folder / name, family)
    model_folder(folder / "classifier-model", "classifier")
    makers: dict[str, Callable[[Path], Any]] = {
        "encoder": encoder_folder,
        "classifier": classifier_folder,
        "decoder": decoder_folder,
    }
    for name, make in makers.items():
        make(folder / name)
    shutil.copytree(RECIPES, folder / "pipelines")
    (folder / "tiny.yaml").write_text(SITES["channels"].recipe)
    lines = sentence_lines(30)
    (folder / "text.txt").write_text("\n".join(lines))
    rows = [
        {"text": a, "text_pair": b, "label": n % 3, "score": n / 30}
        for n, (a, b) in enumerate(zip(lines, reversed(lines), strict=True))
    ]
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    table = [",".join(rows[0]), *(",".join(map(str, row.values())) for row in rows)]
    (folder / "rows.csv").write_text("\n".join(table) + "\n")
    _gguf(folder / "model.gguf")


def _gguf(file: Path) -> None:
    """A llama of one layer with its tokenizer."""
    import gguf
    import numpy as np

    writer = gguf.GGUFWriter(str(file), "llama")
    writer.add_context_length(96)
    writer.add_embedding_length(16)
    writer.add_block_count(1)
    writer.add_feed_forward_length(16)
    writer.add_head_count(2)
    writer.add_head_count_kv(1)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(["w", "0", "w0", *(f"w{number:03d}" for number in range(37))])
    writer.add_token_types([1] * 40)
    writer.add_token_merges(["w 0"])
    parts = ("attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down")
    for name in parts:
        rows = 8 if name in ("attn_k", "attn_v") else 16
        writer.add_tensor(f"blk.0.{name}.weight", np.ones((rows, 16), np.float32))
    for name in ("attn_norm", "ffn_norm"):
        writer.add_tensor(f"blk.0.{name}.weight", np.ones(16, np.float32))
    writer.add_tensor("token_embd.weight", np.ones((40, 16), np.float32))
    writer.add_tensor("output_norm.weight", np.ones(16, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
