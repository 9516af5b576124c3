"""`edgeprune build` from end to end on tiny models: bundle, report, resume, seeds, refusals."""

import importlib.metadata
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from click.testing import CliRunner, Result
from prospects import left_by
from safetensors.numpy import load_file
from tiny_builds import RECIPE, model_folder, recipe_file, sentence_lines, text_file

from edgeprune.base.errors import UserError
from edgeprune.cli import main
from edgeprune.compress.quantize.plan import Plan
from edgeprune.model.checkpoint import open_checkpoint
from edgeprune.model.store import load_model
from edgeprune.pipeline.keep import LOCK, locked
from edgeprune.pipeline.recipe import read_recipe
from edgeprune.runtime.bundle import Bundle
from edgeprune.runtime.embed import Embedder

KEPT = "kept from an earlier build"
STAGES = ["load", "original", "prune", "cut", "recover", "quantize", "export", "rewrite", "measure"]
# Weights leave nothing of the shapes.
WEIGHTS = RECIPE.replace("  head_sparsity: 0.5\n", "").replace("channels+heads", "PATTERN")


def build(*arguments: object) -> Result:
    result = CliRunner().invoke(main, ["build", *map(str, arguments)])
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


def stage(output: Path, name: str) -> Path:
    """The one folder that a stage left."""
    (folder,) = (output / "stages").glob(f"{name}-*")
    return folder


def tree(folder: Path) -> dict[str, tuple[int, bytes]]:
    """Every file's time and content."""
    return {
        str(path.relative_to(folder)): (path.stat().st_mtime_ns, path.read_bytes())
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


class Site:
    """A tiny model, its text and a recipe; builds into folders of their own."""

    def __init__(self, folder: Path, family: str, recipe: str = RECIPE) -> None:
        self.folder = folder
        self.model = model_folder(folder / "model", family)
        labelled = family.endswith("classifier")
        self.text = text_file(folder / ("text.jsonl" if labelled else "text.txt"))
        self.recipe = recipe_file(folder / "tiny.yaml", recipe)

    def build(self, output: str = "out", *options: object) -> Result:
        given = ("--model", self.model, "--data", self.text, "--output", self.folder / output)
        return build(self.recipe, *given, *options)


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Site:
    return Site(tmp_path_factory.mktemp("bert"), "bert")


@pytest.fixture(scope="module")
def built(site) -> Result:
    """One whole build, nothing left out."""
    return site.build()


@pytest.fixture(scope="module")
def output(site, built) -> Path:
    assert built.exit_code == 0, built.stderr
    return site.folder / "out"


@pytest.fixture
def untimed(output, monkeypatch):
    """Builds whose times are no matter take the first one's."""
    measured = json.loads((stage(output, "measure") / "stage.json").read_text())["speed"]
    monkeypatch.setattr("edgeprune.pipeline.measure.stage.compare", lambda *_a, **_k: measured)


# a whole build ---------------------------------------------------------------------------------


def test_a_build_leaves_a_bundle_its_original_and_a_report(output, built):
    assert sorted(path.name for path in output.iterdir()) == [
        "bundle",
        "original",
        "report.html",
        "report.json",
        "stages",
    ]
    for name in ("bundle", "original"):
        bundle = Bundle.open(output / name)
        bundle.verify()
        assert bundle.task == "feature-extraction"
        assert str(output / name) in built.stdout
        assert bundle.max_length == 64
    manifest = Bundle.open(output / "bundle").manifest
    assert [each["name"] for each in manifest["stages"]] == STAGES
    assert manifest["recipe"] == read_recipe(str(output.parent / "tiny.yaml")).model_dump(
        mode="json"
    ) | {"text": manifest["recipe"]["text"]}
    assert manifest["recipe"]["text"]["data"] == ["text.txt"]
    for made in (manifest, Bundle.open(output / "original").manifest):
        assert made["made_with"]["torch"] == importlib.metadata.version("torch")
        assert {"python", "transformers", "onnxruntime", "numpy"} <= made["made_with"].keys()
    assert Bundle.open(output / "bundle").model_bytes < Bundle.open(output / "original").model_bytes
    shown = built.stdout.split()
    assert {"latency,", "graph", "cosine"} <= set(shown)


def test_no_file_that_is_published_says_where_it_was_built(site, output):
    """Of stages, too: their measurements name places in every kind of record."""
    names = [os.fsencode(site.folder), os.fsencode(Path.cwd()), os.fsencode(tempfile.gettempdir())]
    files = [file for part in ("bundle", "original") for file in (output / part).rglob("*")]
    files = [file for file in files if file.is_file()]
    files += [output / "report.json", output / "report.html"]
    assert len(files) > 10
    telling = [(file, name) for file in files for name in names if name in file.read_bytes()]
    assert telling == []


def test_exactly_what_was_asked_is_gone(output):
    did = {
        each["name"]: each for each in json.loads((output / "report.json").read_text())["stages"]
    }
    assert [(p["pattern"], p["units"], p["removed"]) for p in did["prune"]["pools"]] == [
        ("channels", 80, 40),
        ("heads", 8, 4),
    ]
    assert sum(did["cut"]["channels"]) == 40
    assert sum(did["cut"]["heads"]) == 4
    weights = load_file(stage(output, "quantize") / "model.safetensors")
    for layer in range(2):
        up = weights[f"encoder.layer.{layer}.intermediate.dense.weight"]
        query = weights[f"encoder.layer.{layer}.attention.self.query.weight"]
        assert up.shape == (did["cut"]["channels"][layer], 32)
        assert query.shape == (8 * did["cut"]["heads"][layer], 32)


def test_the_original_answers_as_transformers_does(site, output):
    texts = sentence_lines(6, seed=5)
    got = Embedder(Bundle.open(output / "original")).embed(texts)
    tokenizer = transformers.AutoTokenizer.from_pretrained(site.model)
    model = transformers.AutoModel.from_pretrained(site.model).eval()
    inputs = tokenizer(texts, padding=True, return_tensors="pt")
    with torch.no_grad():
        hidden = model(**inputs).last_hidden_state
    mask = inputs["attention_mask"].unsqueeze(-1)
    expected = ((hidden * mask).sum(1) / mask.sum(1)).numpy()
    np.testing.assert_allclose(got, expected, atol=1e-4)


def test_the_bundle_answers_as_the_recovered_model(output):
    """Cut, recovered and quantized in torch; the rest is arithmetic of the runtime's."""
    texts = sentence_lines(6, seed=5)
    bundle = Bundle.open(output / "bundle")
    got = Embedder(bundle).embed(texts)
    model = load_model(stage(output, "quantize"))
    tokenizer = transformers.AutoTokenizer.from_pretrained(output / "bundle")
    inputs = tokenizer(texts, padding=True, return_tensors="pt")
    with torch.no_grad():
        hidden = model.module(
            input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"]
        ).last_hidden_state
    mask = inputs["attention_mask"].unsqueeze(-1)
    expected = ((hidden * mask).sum(1) / mask.sum(1)).numpy()
    cosine = (
        (got * expected).sum(1) / np.linalg.norm(got, axis=1) / np.linalg.norm(expected, axis=1)
    )
    assert cosine.min() > 0.99


class Page(HTMLParser):
    """Collects a page's text, its tables' sizes, and anything that it would fetch."""

    def __init__(self) -> None:
        super().__init__()
        self.text, self.cells, self.fetched = [], [], []

    def handle_starttag(self, tag, attrs):
        links = [value for key, value in attrs if key in ("src", "href")]
        self.fetched += [link for link in links if not link.startswith("#")]
        if tag in ("td", "th"):
            self.cells.append("")

    def handle_data(self, data):
        self.text.append(data)
        if self.cells:
            self.cells[-1] += data


def test_the_report_is_one_page_that_says_what_was_done(output):
    page = Page()
    page.feed((output / "report.html").read_text(encoding="utf-8"))
    report = json.loads((output / "report.json").read_text(encoding="utf-8"))
    text = " ".join(page.text)
    assert page.fetched == []
    cells = [cell.strip() for cell in page.cells]
    for name in STAGES:
        assert name in cells
    assert "Channels removed: 40 of 80" in text
    assert report["source"]["model"] in text
    ratio = report["stages"][-1]["speed"]["measures"]["encoder"]["ratio"]
    assert f"{ratio['value']:.2f}x ({ratio['low']:.2f} to {ratio['high']:.2f})" in cells
    assert re.fullmatch(r"[0-9a-f]{64}", report["source"]["sha256"])
    assert report["text"]["documents"] == 60
    cut = next(each for each in report["stages"] if each["name"] == "cut")
    assert len(cut["heads"]) == 2


# resume ----------------------------------------------------------------------------------------


def test_a_second_build_keeps_every_stage(site, output):
    before = tree(output / "stages")
    again = site.build()
    assert again.exit_code == 0
    assert again.stderr.count(KEPT) == len(STAGES)
    assert tree(output / "stages") == before
    assert Bundle.open(output / "bundle").manifest["stages"][0]["name"] == "load"


def test_a_later_setting_runs_only_what_comes_after_it(site, output, untimed):
    """In a copy of the output, since it changes."""
    copy = site.folder / "later"
    shutil.copytree(output, copy)
    before = tree(copy / "stages")
    result = site.build("later", "--set", "quantize.clip=mse")
    assert result.exit_code == 0, result.stderr
    assert result.stderr.count(KEPT) == 5
    after = tree(copy / "stages")
    for name in STAGES[:5]:
        kept = {path: content for path, content in before.items() if path.startswith(name)}
        assert kept == {p: c for p, c in after.items() if p.startswith(name)}
    assert stage(copy, "quantize").name != stage(output, "quantize").name  # and one is left
    assert Bundle.open(copy / "bundle").manifest["recipe"]["quantize"]["clip"] == "mse"


@pytest.mark.parametrize(
    "change", ["text.txt", "model/tokenizer.json", "model/config.json", "model/model.safetensors"]
)
def test_other_input_is_another_build(change, site, output, monkeypatch):
    """Nothing is kept: the first stage runs again, and is stopped there."""
    monkeypatch.setattr("edgeprune.compress.load.stage.import_checkpoint", _fail)
    file = site.folder / change
    content = file.read_bytes()
    try:
        if change.endswith("safetensors"):
            file.write_bytes(content[:-4] + np.float32(0.5).tobytes())
        else:
            other = {"text.txt": b"w010", "model/tokenizer.json": b"w010"}.get(change, b"gelu")
            file.write_bytes(content.replace(other, b"relu"))
        assert file.read_bytes() != content
        with pytest.raises(RuntimeError, match="planted"):
            site.build()
    finally:
        file.write_bytes(content)
    assert site.build().stderr.count(KEPT) == len(STAGES)


def test_text_that_moved_is_the_same_text(site, output, tmp_path):
    moved, copy = tmp_path / "moved.txt", shutil.copytree(output, tmp_path / "out")
    shutil.copyfile(site.folder / "text.txt", moved)
    given = ("--model", site.model, "--data", moved, "--output", copy)
    assert build(site.recipe, *given).stderr.count(KEPT) == len(STAGES)


def _fail(*_arguments: object, **_options: object) -> None:
    raise RuntimeError("planted")


def test_a_failed_stage_leaves_nothing_and_is_run_again(site, output, untimed, monkeypatch):
    copy = site.folder / "failed"
    shutil.copytree(output, copy)
    bundle = tree(copy / "bundle")
    with monkeypatch.context() as patch:
        patch.setattr("edgeprune.compress.recover.stage.distil", _fail)
        with pytest.raises(RuntimeError, match="planted"):
            site.build("failed", "--set", "recover.steps=5")
    names = sorted(path.name for path in (copy / "stages").iterdir())
    assert not [name for name in names if name.startswith(".")]
    # The stages of the build before stand as they were; so does its bundle.
    assert names == sorted(path.name for path in (output / "stages").iterdir())
    assert tree(copy / "bundle") == bundle
    # What a killed build left aside is swept away, and never taken for a stage.
    aside = copy / "stages" / ".recover-0123456789ab.999"
    aside.mkdir()
    (aside / "stage.json").write_text("{}")
    graphs = copy / ".graphs-abcd1234"
    graphs.mkdir()
    result = site.build("failed", "--set", "recover.steps=5")
    assert result.exit_code == 0
    assert result.stderr.count(KEPT) == 4
    assert not aside.exists()
    assert not graphs.exists()
    assert Bundle.open(copy / "bundle").manifest["recipe"]["recover"]["steps"] == 5


def test_a_first_build_that_fails_leaves_no_folder(site, monkeypatch):
    monkeypatch.setattr("edgeprune.compress.load.stage.import_checkpoint", _fail)
    with pytest.raises(RuntimeError, match="planted"):
        site.build("deep/never")
    assert not (site.folder / "deep").exists()


def test_fresh_keeps_nothing_but_what_a_failure_would_lose(site, output, untimed, monkeypatch):
    copy = site.folder / "fresh"
    shutil.copytree(output, copy)
    before = tree(copy)
    with monkeypatch.context() as patch:
        patch.setattr("edgeprune.compress.load.stage.run", _fail)
        with pytest.raises(RuntimeError, match="planted"):
            site.build("fresh", "--fresh")
    assert tree(copy) == before
    result = site.build("fresh", "--fresh")
    assert result.exit_code == 0
    assert KEPT not in result.stderr
    times = {path: time for path, (time, _) in tree(copy / "stages").items()}
    assert all(time > before[f"stages/{path}"][0] for path, time in times.items())


def test_a_stage_that_lost_bytes_runs_again(site, output, untimed):
    copy = site.folder / "damaged"
    shutil.copytree(output, copy)
    file = stage(copy, "load") / "model.safetensors"
    whole = file.read_bytes()
    file.write_bytes(whole[:1000])
    (stage(copy, "cut") / "config.json").unlink()
    result = site.build("damaged")
    assert result.exit_code == 0, result.stderr
    assert result.stderr.count(KEPT) == len(STAGES) - 2
    assert "model.safetensors of an earlier build is damaged: run again" in result.stderr
    assert file.read_bytes() == whole
    assert site.build("damaged").stderr.count(KEPT) == len(STAGES)


def test_what_a_killed_write_left_is_swept_away(site, output):
    copy = site.folder / "swept"
    shutil.copytree(output, copy)
    bundle = tree(copy / "bundle")
    left = [copy / ".bundle.a1b2c3d4", copy / ".original.a1b2c3d4", copy / ".bundle.mine"]
    for folder in left:
        (folder / "new").mkdir(parents=True)
    (copy / "bundle").rename(left[0] / "old")
    (copy / "stages" / LOCK).write_text("1")  # a dead process' lock
    assert site.build("swept").exit_code == 0
    assert [folder.exists() for folder in left] == [False, False, True]
    assert tree(copy / "bundle").keys() == bundle.keys()
    assert not (copy / "stages" / LOCK).exists()


# locks -----------------------------------------------------------------------------------------

HOLDER = """
import pathlib, sys
from edgeprune.pipeline.keep import locked
with locked(pathlib.Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


def test_one_build_at_a_time_uses_a_folder(site, output):
    before = tree(output)
    file = output / "stages" / LOCK
    with subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(file)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as holder:
        assert holder.stdout.readline() == "held\n"
        refused = site.build()
        assert refused.exit_code == 2
        assert f"Another build (process {holder.pid}) is using {output}: wait" in refused.stderr
        assert site.build("out", "--dry-run").exit_code == 0
        holder.kill()
    assert file.exists()
    with locked(file):  # the dead process let go of it
        assert file.read_text() == str(os.getpid())
        with pytest.raises(UserError, match=f"process {os.getpid()}"), locked(file):
            pass
    assert tree(output) == before


# seeds -----------------------------------------------------------------------------------------


def test_the_same_seed_builds_the_same_bytes(site, output, untimed):
    assert site.build("again").exit_code == 0
    assert site.build("other", "--seed", 1).exit_code == 0
    for file in ("bundle/onnx/model.onnx", "original/onnx/model.onnx"):
        assert (site.folder / "again" / file).read_bytes() == (output / file).read_bytes()
    other = site.folder / "other"
    assert (other / "bundle/onnx/model.onnx").read_bytes() != (
        output / "bundle/onnx/model.onnx"
    ).read_bytes()
    assert Bundle.open(other / "bundle").manifest["recipe"]["seed"] == 1
    held = [
        (stage(folder, "measure") / "held_out.txt").read_text().splitlines()
        for folder in (output, other)
    ]
    assert len(held[0]) == len(held[1]) == 6
    assert held[0] != held[1]


# --dry-run -------------------------------------------------------------------------------------


def test_a_dry_run_touches_nothing_and_prints_counts(site):
    before = tree(site.folder)
    result = site.build("nowhere", "--dry-run", "--all")
    assert result.exit_code == 0
    assert tree(site.folder) == before
    assert not (site.folder / "nowhere").exists()
    shown = " ".join(result.stdout.split())
    for words in (
        "40 of 80 channels go",
        "4 of 8 heads go",
        "8 steps, budget mv, by platon",
        "6 steps of distillation",
        "60 texts from",
        "2 layers of 8 heads and 80 channels in all",
        "12 tokens, batch 1, 1 thread(s)",
        "head_sparsity: 0.5",
        "Nothing was touched",
    ):
        assert words in shown, words
    # 2 layers of 4 x 32 x 32 and 2 x 40 x 32; 131 words and 96 positions of 32; 2 token types.
    assert f"{2 * (4 * 1024 + 2 * 1280) + (131 + 96 + 2) * 32:,} weights" in shown
    # 12 linears of half of the heads and channels, words, positions: two token types stay float.
    planned = re.findall(
        r"(\d+) tensors of ([\d,]+) weights become \d-bit integers \((\S+),", shown
    )
    assert sorted(planned) == [
        ("12", f"{2 * (4 * 512 + 2 * 640):,}", "int8"),
        ("2", f"{(131 + 96) * 32:,}", "int8-rows"),
    ]


def test_a_dry_run_counts_a_cut_after_pruning(site):
    result = site.build("nowhere", "--dry-run", "--set", "cut.channels=0.25")
    assert "10 of 40 channels leave in one shot by fisher, global" in " ".join(
        result.stdout.split()
    )


# refusals --------------------------------------------------------------------------------------


@pytest.mark.parametrize("fresh", [(), ("--fresh",)])
@pytest.mark.parametrize("foreign", ["notes.txt", "stages/notes.txt", "bundle/notes.txt"])
def test_a_folder_with_something_else_is_refused_untouched(foreign, fresh, site, tmp_path):
    file = tmp_path / "out" / foreign
    file.parent.mkdir(parents=True)
    file.write_text("mine")
    before = tree(tmp_path)
    result = site.build(tmp_path / "out", *fresh)
    assert result.exit_code == 2
    assert "holds something" in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1
    assert tree(tmp_path) == before


def test_a_file_is_no_output_folder(site, tmp_path):
    (tmp_path / "out").write_text("mine")
    result = site.build(tmp_path / "out")
    assert result.exit_code == 2
    assert "is a file; name a folder" in result.stderr


def test_a_link_to_nowhere_is_no_output_folder(site, tmp_path):
    (tmp_path / "out").symlink_to(tmp_path / "gone")
    result = site.build(tmp_path / "out")
    assert result.exit_code == 2
    assert f"is a link to {tmp_path / 'gone'}, which is not there: make" in result.stderr


@pytest.mark.parametrize("option", ["--model", "--data"])
def test_an_empty_name_is_no_name(option, site):
    result = site.build("never", option, "")
    assert result.exit_code == 2
    assert f"{option} is empty" in result.stderr


PAIR = '{"text": "a", "text_pair": "b", "score": %s}'


@pytest.mark.parametrize(
    ("family", "settings", "words"),
    [
        ("bert", ["require.drop=0.1"], "require.drop cannot be judged by cosine, all that"),
        ("bert", ["require.drop=0.1"], "set measure.task to sts or ranking, and"),
        ("llama", ["require.cosine=0.9"], "require.cosine is for encoders' embeddings"),
        (
            "llama",
            ["require.drop=1", "vocabulary={}"],
            "judged by kl, all that this build measures: set measure.task to choice or cloze or",
        ),
        ("bert", ["measure.task=sts", "measure.data=DATA"], "'score' must be a number"),
        ("llama", ["measure.task=cloze", "measure.data=DATA"], "no field 'context'"),
        ("llama", ["measure.task=generation", "measure.data=DATA"], "no field 'prompt'"),
        ("llama", ["measure.task=choice", "measure.data=DATA"], "no field 'query'"),
        ("bert", ["measure.threads=300"], "measure.threads: input should be less"),
        ("bert", ["measure.seconds=.inf"], "measure.seconds: input should be a finite number"),
        ("bert", ["measure.curve=[16, 999999]"], "measure.curve.1: input should be less"),
        ("bert", ["vocabulary.data=[./nope]"], "There is no file or folder ./nope"),
        ("bert", ["vocabulary={}"], "WordLevel, whose vocabulary cannot be trimmed"),
        ("bert", ["text.sampler=stratified", "text.shares={zzz: 1.0}"], "has no group 'zzz'"),
        ("bert", ["cut.experts=0.5"], "cut.experts is for mixtures of experts"),
        (
            "bert",
            ["quantize.weights=mixed", "quantize.average_bits=4.9"],
            "quantize.average_bits of 4.9 cannot be met: INT4 in groups of 32 takes 5 bits",
        ),
        (
            "bert",
            ["quantize.weights=mixed", "quantize.linears_ms=1", "target=arm-dotprod"],
            "quantize.linears_ms needs times of int8 on arm-dotprod",
        ),
    ],
)
def test_what_no_stage_could_do_is_refused_before_the_first(family, settings, words, tmp_path):
    site = Site(tmp_path, family)
    data = tmp_path / "pairs.jsonl"
    data.write_text(PAIR % 1 + "\n" + PAIR % '"high"')
    sets = [part for each in settings for part in ("--set", each.replace("DATA", str(data)))]
    for dry in ((), ("--dry-run",)):
        result = site.build("never", *sets, *dry)
        assert result.exit_code == 2
        assert words in result.stderr
    assert not (tmp_path / "never").exists()


def test_a_damaged_tokenizer_is_refused_before_the_first_stage(tmp_path):
    site = Site(tmp_path, "bert")
    (site.model / "tokenizer.json").write_text('{"model": ')
    result = site.build("never", "--dry-run")
    assert result.exit_code == 2
    assert "is not a readable tokenizer file" in result.stderr


@pytest.mark.parametrize("recipe", [["sparsify.pattern=4x16", "sparsify.sparsity=0.7"], []])
def test_a_budget_that_sparse_formats_may_meet_is_not_refused(recipe, site):
    """What those take is known when the weights are pruned."""
    mixed = ["quantize.weights=mixed", "quantize.average_bits=4.9"]
    sets = [part for each in (*mixed, *recipe) for part in ("--set", each)]
    assert site.build("never", "--dry-run", *sets).exit_code == (0 if recipe else 2)


def test_the_dry_run_knows_the_bytes_of_what_is_built(site, output):
    """Which units leave, only the text tells; how many, and what is left of the sizes, is known."""
    recipe = read_recipe(str(site.recipe))
    plan = left_by(recipe, open_checkpoint(str(site.model))).plan
    did = json.loads((stage(output, "quantize") / "stage.json").read_text())["plan"]
    assert sum(entry.bytes for entry in plan) == sum(e.bytes for e in Plan.from_json(did))


def test_a_build_says_what_its_stages_take(built):
    [line] = [line for line in built.stdout.splitlines() if line.startswith("stages ")]
    assert re.search(r"stages, [\d.]+ [kM]B: .*delete", line)


def test_a_dry_run_beside_a_build_tells_what_that_took(site, output):
    told = " ".join(site.build(output, "--dry-run").stdout.split())
    assert "as with the build that is kept in the output folder" in told
    other = " ".join(site.build(output, "--dry-run", "--set", "recover.steps=3").stdout.split())
    assert "not known time, memory, speed and quality" in other


def test_a_missed_requirement_exits_with_1_and_leaves_the_bundle(site, output, tmp_path):
    output = shutil.copytree(output, tmp_path / "out")
    result = site.build(
        output, "--set", "require.speedup=1000", "--set", "require.cosine=0.9999",
        "--set", "require.megabytes=0.001",
    )  # fmt: skip
    assert result.exit_code == 1
    assert result.stderr.count(KEPT) == len(STAGES)
    last = result.stderr.strip().splitlines()[-1]
    assert last.startswith("edgeprune: the model is ")
    assert "1000x was required" in last
    assert "0.001 were allowed" in last
    assert "0.9999 was required" in last
    said = " ".join(" ".join(result.stdout.splitlines()[:8]).split())
    assert "do not ship: the model is " in said
    assert "next " in result.stdout.splitlines()[-1]
    Bundle.open(output / "bundle").verify()
    for place in (output / "report.html", output / "bundle" / "README.md"):
        assert "3 requirements of 3 missed" in place.read_text(), place
    met = site.build(output, "--set", "require.megabytes=5")
    assert met.exit_code == 0
    assert ": ship" in " ".join(" ".join(met.stdout.splitlines()[:4]).split())
    assert "Every requirement is met: graph and data." in (output / "report.html").read_text()


# other models and patterns ---------------------------------------------------------------------


def test_a_decoder_is_built_and_generates(tmp_path):
    site = Site(tmp_path, "llama")
    result = site.build()
    assert result.exit_code == 0, result.stderr
    bundle = Bundle.open(tmp_path / "out" / "bundle")
    assert bundle.task == "text-generation"
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    did = {each["name"]: each for each in report["stages"]}
    assert sum(did["cut"]["channels"]) == 40
    # Two slots of two heads a layer; half of the four slots are gone, every layer keeps one.
    assert did["cut"]["heads"] == [2, 2]
    assert bundle.config["num_key_value_heads"] == 2
    assert set(did["measure"]["speed"]["measures"]) == {"prompt", "decode"}
    assert [each["task"] for each in did["measure"]["quality"]] == ["perplexity", "kl"]
    run = CliRunner().invoke(
        main,
        ["run", str(bundle.folder), "w001 w002", "--raw", "--max-tokens", "4"],
    )
    assert run.exit_code == 0, run.stderr
    assert run.stdout.strip()


def test_a_classifier_is_built_and_classifies(untimed, tmp_path):
    site = Site(tmp_path, "classifier", RECIPE.replace("steps: 8", "steps: 8\n  label_weight: 1"))
    result = site.build()
    assert result.exit_code == 0, result.stderr
    bundle = Bundle.open(tmp_path / "out" / "bundle")
    assert bundle.task == "text-classification"
    quality = Bundle.open(bundle.folder).manifest["stages"][-1]["quality"][0]
    assert quality["task"] == "classification"
    assert quality["conditions"]["texts"] == 6
    run = CliRunner().invoke(main, ["run", str(bundle.folder), "w001 w002", "--json"])
    assert run.exit_code == 0, run.stderr


@pytest.mark.parametrize("pattern", ["4x16", "2:4"])
def test_single_weights_go_and_stay_gone(pattern, site, untimed, tmp_path):
    recipe = recipe_file(tmp_path / "tiny.yaml", WEIGHTS.replace("PATTERN", pattern))
    if pattern == "2:4":
        recipe.write_text(recipe.read_text().replace("  sparsity: 0.5\n", ""))
    out = tmp_path / "out"
    # GPTQ moves the weights that stay before it rounds them, and must leave those that went.
    rounding = ["--set", "quantize.method=gptq"] if pattern == "2:4" else []
    result = build(recipe, "--model", site.model, "--data", site.text, "--output", out, *rounding)
    assert result.exit_code == 0, result.stderr
    weights = load_file(stage(out, "recover") / "model.safetensors")
    masks = load_file(stage(out, "recover") / "masks.safetensors")
    stored = load_file(stage(out, "quantize") / "model.safetensors")
    assert len(masks) == 12
    zero = total = 0
    for name, mask in masks.items():
        weight = weights[f"{name}.weight"]
        assert not weight[mask == 0].any()
        assert not stored[f"{name}.weight"][mask == 0].any()
        zero, total = zero + int((mask == 0).sum()), total + mask.size
        if pattern == "2:4":
            assert (mask.reshape(mask.shape[0], -1, 4).sum(-1) == 2).all()
        if pattern == "4x16":  # 4 neighbouring inputs of 16 neighbouring outputs share a fate
            for top in range(0, mask.shape[0], 16):
                blocks = mask[top : top + 16].reshape(-1, mask.shape[1] // 4, 4)
                assert np.isin(blocks.sum((0, 2)), (0, blocks.shape[0] * 4)).all()
    assert total == 2 * (4 * 1024 + 2 * 1280)
    if pattern != "4x16":  # there half of the blocks are gone, and those at an edge are smaller
        assert zero == total // 2
    else:
        assert 0.4 < zero / total < 0.6
    Bundle.open(out / "bundle").verify()


ONE_SHOT = """
name: tiny
text: {max_tokens: 16, batch_tokens: 256, held_out: 0.2, held_out_samples: 16}
prune: {method: wanda, sparsity: 0.4, samples: 32}
recover: {steps: 4, checks: 2, precision: float32}
measure: {tokens: 12, seconds: 0.2, launches: 1, profile: false, curve: [], stages: false}
"""


def test_weights_go_in_one_shot_and_stay_gone(tmp_path):
    site = Site(tmp_path, "bert", ONE_SHOT)
    result = site.build()
    assert result.exit_code == 0, result.stderr
    out = tmp_path / "out"
    masks = load_file(stage(out, "recover") / "masks.safetensors")
    weights = load_file(stage(out, "recover") / "model.safetensors")
    zero = sum(int((mask == 0).sum()) for mask in masks.values())
    total = sum(mask.size for mask in masks.values())
    assert zero == round(0.4 * total)
    assert not any(weights[f"{name}.weight"][mask == 0].any() for name, mask in masks.items())
    stages = Bundle.open(out / "bundle").manifest["stages"]
    pruned = next(each for each in stages if each["name"] == "prune")
    assert (pruned["method"], pruned["removed"]) == ("wanda", zero)
    assert set(pruned["layers"]) == set(masks)
    assert all(0 < each["error"] < 1 for each in pruned["layers"].values())
    assert pruned["seconds"] > 0
    dry = site.build("nowhere", "--dry-run")
    assert "in one shot by wanda, on 32 sequences" in " ".join(dry.stdout.split())


def test_whole_layers_leave_a_pruned_decoder(tmp_path):
    """Masks follow their layers; clients size the cache by the configuration."""
    recipe = ONE_SHOT.replace("recover", "cut: {layers: 1}\nrecover") + "quantize: {}\n"
    site = Site(tmp_path, "gpt2", recipe)
    result = site.build()
    assert result.exit_code == 0, result.stderr
    out = tmp_path / "out"
    bundle = Bundle.open(out / "bundle")
    did = {each["name"]: each for each in bundle.manifest["stages"]}
    [left] = did["cut"]["layers"]
    assert did["cut"]["layer_scores"][left] == max(did["cut"]["layer_scores"])
    assert bundle.config["n_layer"] == 1
    assert not any("past_key_values.1" in name for name in bundle.outline.inputs)
    before = load_file(stage(out, "prune") / "masks.safetensors")
    after = load_file(stage(out, "recover") / "masks.safetensors")
    assert len(after) == len(before) // 2
    for name, mask in after.items():
        assert np.array_equal(mask, before[name.replace("h.0.", f"h.{left}.")])
    # The fused attention is for keys that are turned by their position.
    undone = [each["name"] for each in did["rewrite"]["passes"] if not each["kept"]]
    assert undone == []
    generated = CliRunner().invoke(
        main, ["run", str(bundle.folder), "w001 w002", "--raw", "--max-tokens", "4"]
    )
    assert generated.exit_code == 0, generated.stderr
    dry = site.build("nowhere", "--dry-run")
    assert "1 of 2 layers leave by loss, on 32 sequences" in " ".join(dry.stdout.split())
    refused = site.build("nowhere", "--set", "cut.layers=2")
    assert "would drop 2 of 2 layers" in refused.stderr
