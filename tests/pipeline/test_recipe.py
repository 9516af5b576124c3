"""Recipes: read, refused with a sentence, overridden, explained, written back."""

import io
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel
from rich.console import Console
from rich.table import Table

import edgeprune
from edgeprune.base.errors import UserError
from edgeprune.base.names import Name, parts_of
from edgeprune.base.registry import load_function
from edgeprune.cli import main
from edgeprune.compress.prune.methods import METHODS
from edgeprune.pipeline import builds
from edgeprune.pipeline.recipe import (
    ALIASES,
    DEFAULT,
    Recipe,
    explain,
    read_recipe,
    shipped,
    validate,
)
from edgeprune.pipeline.stages import STAGES

SHIPPED = (
    "classifier",
    "decoder",
    "decoder-fast",
    "decoder-int4",
    "decoder-sparse",
    "embedder",
    "encoder",
    "encoder-fast",
    "encoder-int8",
    "encoder-sparse",
    "multilingual",
)


def write(folder: Path, content: str) -> str:
    file = folder / "mine.yaml"
    file.write_text(content, encoding="utf-8")
    return str(file)


def refused(content: str, folder: Path, *overrides: str) -> str:
    with pytest.raises(UserError) as error:
        read_recipe(write(folder, content), overrides)
    sentence = str(error.value)
    assert "\n" not in sentence
    assert "pydantic" not in sentence
    return sentence


def test_these_recipes_ship():
    assert set(shipped()) >= set(SHIPPED)
    assert DEFAULT in SHIPPED


@pytest.mark.parametrize(("earlier", "name"), ALIASES.items())
def test_a_recipe_is_found_by_its_earlier_name(earlier, name):
    assert read_recipe(earlier) == read_recipe(name)
    assert earlier not in shipped()


def test_no_recipe_speaks_of_a_model_that_it_may_not_be_given():
    """`model` is a default; what a recipe says of itself holds for any model."""
    for name in shipped():
        described = read_recipe(name).description
        assert not re.search(r"SmolLM2|all-MiniLM", described), name


@pytest.mark.parametrize("name", SHIPPED)
def test_a_shipped_recipe_reads_back_the_same(name, tmp_path):
    recipe = read_recipe(name)
    assert recipe.name == name
    assert len(recipe.description.split()) > 8
    again = read_recipe(write(tmp_path, recipe.to_yaml()))
    assert again == recipe
    assert again.to_yaml() == recipe.to_yaml()


@pytest.mark.parametrize("name", SHIPPED)
def test_a_shipped_recipe_prunes_as_it_says(name):
    """What the description promises is what the settings hold."""
    recipe = read_recipe(name)
    assert recipe.quantize is not None
    if name in ("encoder-int8", "decoder-int4"):
        assert (recipe.prune, recipe.cut, recipe.recover) == (None, None, None)
        assert recipe.quantize.weights == name.rpartition("-")[-1]
    elif name == "decoder-fast":
        assert (recipe.prune, recipe.cut, recipe.recover) == (None, None, None)
        assert (recipe.quantize.weights, recipe.quantize.cache_bits) == ("mixed", 16)
        assert recipe.quantize.operators
    elif name == "decoder":
        assert recipe.prune is None
        assert recipe.cut.channels > 0
    elif name == "decoder-sparse":
        assert (recipe.prune.method, recipe.prune.pattern) == ("sparsegpt", "4x16")
        assert recipe.quantize.sparse
        assert recipe.quantize.tokens == 1
    else:
        assert recipe.prune.pattern == "channels+heads"
        assert recipe.prune.budget == "mv"
        assert recipe.cut is not None
        assert recipe.recover is not None


def test_sparse_means_blocks_after_the_cut():
    names = [entry.name for entry in STAGES]
    assert names.index("cut") < names.index("sparsify") < names.index("recover")
    recipe = read_recipe("encoder-sparse")
    assert recipe.prune.gated
    assert recipe.sparsify.pattern == "4x16"
    assert recipe.sparsify.budget == "mv"
    assert recipe.quantize.sparse


def test_deeper_means_deeper():
    deep, usual = (read_recipe(name).prune for name in ("encoder-fast", "encoder"))
    assert deep.sparsity > usual.sparsity
    assert deep.head_sparsity > usual.head_sparsity


def test_every_stage_names_a_function():
    assert STAGES
    for stage in STAGES:
        functions = [stage.run, *([stage.look] if stage.look else [])]
        assert all(callable(load_function(each)) for each in functions), stage.name


# what is refused -------------------------------------------------------------------------------


def test_an_unknown_recipe_names_the_nearest():
    with pytest.raises(UserError, match=r"no recipe 'encodr'; did you mean 'encoder'\?") as error:
        read_recipe("encodr")
    assert all(name in str(error.value) for name in SHIPPED)


@pytest.mark.parametrize(
    ("content", "path", "nearest"),
    [
        ("prun: {}", "prun", "prune"),
        ("prune: {stpes: 3}\ncut: {}", "prune.stpes", "steps"),
        ("recover: {learning_rat: 0.1}", "recover.learning_rat", "learning_rate"),
        ("text: {max_token: 12}", "text.max_token", "max_tokens"),
        ("measure: {thread: 2}", "measure.thread", "threads"),
        ("require: {speed_up: 2}", "require.speed_up", "speedup"),
        ("quantize: {weigths: int8}", "quantize.weigths", "weights"),
        ("cut: {chanels: 0.5}", "cut.chanels", "channels"),
        ("prune: {method: wanda, sampels: 3}", "prune.sampels", "samples"),
        ("sparsify: {pattern: 4x16, stpes: 3}", "sparsify.stpes", "steps"),
        ("sparsify: {method: wanda, pattern: 4x16, sampels: 3}", "sparsify.sampels", "samples"),
        ("prune: {method: thanos, outlier_row: 0.1}", "prune.outlier_row", "outlier_rows"),
    ],
)
def test_a_misspelt_setting_names_the_nearest(content, path, nearest, tmp_path):
    sentence = refused(content, tmp_path)
    assert f"there is no setting '{path}'; did you mean '{nearest}'?" in sentence
    assert "mine.yaml" in sentence


@pytest.mark.parametrize(
    ("content", "path", "bound"),
    [
        ("prune: {sparsity: 1.5}\ncut: {}", "prune.sparsity", "less than 1"),
        ("prune: {sparsity: -0.1}\ncut: {}", "prune.sparsity", "greater than or equal to 0"),
        ("cut: {heads: 1}", "cut.heads", "less than 1"),
        ("prune: {method: sparsegpt, damping: 0}", "prune.damping", "greater than 0"),
        ("recover: {learning_rate: 0}", "recover.learning_rate", "greater than 0"),
        ("recover: {steps: many}", "recover.steps", "valid integer"),
        ("text: {held_out: 0.5}", "text.held_out", "less than 0.5"),
        ("seed: -1", "seed", "greater than or equal to 0"),
        ("cut: {score: best}", "cut.score", "'fisher', 'taylor'"),
        ("require: {cosine: 2}", "require.cosine", "less than or equal to 1"),
        ("recover: {learning_rate: .nan}", "recover.learning_rate", "finite number"),
        ("cut: {layers: .inf}", "cut.layers", "finite number"),
    ],
)
def test_a_value_out_of_range_names_setting_bound_and_value(content, path, bound, tmp_path):
    sentence = refused(content, tmp_path)
    assert f"{path}: " in sentence
    assert bound in sentence
    assert re.search(r"\(given: .+\)", sentence)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("prune: {start: 0.8, end: 0.5}\ncut: {}", "start must come before end"),
        ("prune: {pattern: '4:4'}", "n must be smaller than m"),
        ("prune: {pattern: '2:4', sparsity: 0.3}", "means a sparsity of 0.5"),
        ("prune: {pattern: squares}", "no such pattern: 'squares'"),
        ("prune: {regrowth: 0.1}\ncut: {}", "do not grow back"),
        ("prune: {pattern: channels}", "add `cut: {}`"),
        ("prune: {}\ncut: off", "add `cut: {}`"),
        ("prune: {method: wnda}", "prune.method: there is no method 'wnda'; did you mean 'wanda'?"),
        ("prune: {method: 3}", "there is no method '3'. Those that there are: momentum-variance,"),
        ("prune: {method: wanda, steps: 3}", "there is no setting 'prune.steps'"),
        ("prune: {method: wanda, pattern: channels}", "no such pattern: 'channels'"),
        ("prune: {pattern: columns}", "no such pattern: 'columns'"),
        ("prune: {method: thanos, outlier_rows: 0.1}", "go with the pattern columns or n:m"),
        (
            "prune: {method: thanos, pattern: columns, outlier_rows: 0.5}",
            "less than 1 - sparsity",
        ),
    ],
)
def test_settings_that_contradict_each_other_are_refused(content, words, tmp_path):
    sentence = refused(content, tmp_path)
    assert words in sentence
    assert len(sentence) < 300  # and not the whole recipe beside it


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("prune: [1, 2", "not a YAML recipe"),
        ("- prune", "must hold settings by name"),
        ("", "must hold settings by name"),
        ("prune: 3", "prune: input should be a valid dictionary"),
        ("1: 2", "mine.yaml"),
        ("text: off", "text: input should be a valid dictionary"),
        ("seed: 1\nname: 2024-13-45", "not a YAML recipe: month must be in 1..12"),
        ("seed: 1\nname: 2024-13-45", "line 2, column 7"),
        (f"seed: {'9' * 5000}", "not a YAML recipe: Exceeds the limit"),
        (f"seed: {'[' * 10_000}", "not a YAML recipe: maximum recursion depth"),
        ("name: " + "{a: " * 5000 + "}" * 5000, "not a YAML recipe: maximum recursion depth"),
        (r'name: "\ud83d"', "surrogates not allowed"),
        (r'"\ud83d": 1', "surrogates not allowed"),
    ],
)
def test_what_is_no_recipe_is_refused(content, words, tmp_path):
    assert words in refused(content, tmp_path)


def test_a_binary_file_is_no_recipe(tmp_path):
    file = tmp_path / "model.onnx"
    file.write_bytes(bytes(range(256)))
    with pytest.raises(UserError, match="not a YAML recipe"):
        read_recipe(str(file))
    with pytest.raises(UserError, match="There is no recipe"):
        read_recipe(str(tmp_path))


# --set and off ---------------------------------------------------------------------------------


def test_set_reaches_every_depth_and_adds_stages(tmp_path):
    recipe = read_recipe(
        write(tmp_path, "cut: {channels: 0.5}\nprune: off"),
        ["seed=7", "cut.channels=0.25", "recover.steps=12", "text.data=a=b.txt", "prune.steps=9"],
    )
    assert recipe.seed == 7
    assert recipe.cut.channels == 0.25
    assert recipe.recover.steps == 12
    assert recipe.text.data == ("a=b.txt",)
    assert recipe.prune.steps == 9


@pytest.mark.parametrize("off", ["off", "no", "false", '"off"'])
def test_a_stage_is_left_out_by_off(off, tmp_path):
    assert read_recipe(write(tmp_path, f"recover: {off}\ncut: {{}}")).recover is None
    assert read_recipe("encoder", [f"recover={off}"]).recover is None


@pytest.mark.parametrize("pattern", ["2:4", "1:4", "4x16", "12:16"])
def test_a_pattern_needs_no_quotes(pattern, tmp_path):
    """To YAML 1.1, 2:4 is a number to the base of sixty."""
    recipe = read_recipe(write(tmp_path, f"prune: {{pattern: {pattern}}}"))
    assert recipe.prune.pattern == pattern
    assert read_recipe("encoder", [f"prune={{pattern: {pattern}}}"]).prune.pattern == pattern
    assert read_recipe(write(tmp_path, recipe.to_yaml())) == recipe


@pytest.mark.parametrize("rate", ["5e-5", "5.0e-5", "0.00005"])
def test_a_rate_may_be_written_as_people_do(rate, tmp_path):
    recipe = read_recipe(write(tmp_path, f"recover: {{learning_rate: {rate}}}"))
    assert recipe.recover.learning_rate == 5e-5


def test_a_stage_without_settings_has_its_defaults(tmp_path):
    recipe = read_recipe(write(tmp_path, "quantize:\ncut: {}"))
    assert recipe.quantize == type(recipe.quantize)()
    assert recipe.cut == type(recipe.cut)()
    assert recipe.recover is None


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("prune.steps", "must look like STAGE.KEY=VALUE"),
        ("=3", "must look like STAGE.KEY=VALUE"),
        ("seed.deeper=3", "seed has no settings of its own"),
        ("text.data=[", "is not YAML"),
        ("name=2024-13-45", "is not YAML: month must be in 1..12"),
        (f"seed={'9' * 5000}", "is not YAML: Exceeds the limit"),
        (f"seed={'[' * 10_000}", "is not YAML: maximum recursion depth"),
        (r'name="\ud83d"', "surrogates not allowed"),
        ("prune.stps=3", "did you mean 'steps'?"),
        ("prune.steps=0", "prune.steps: "),
    ],
)
def test_a_wrong_override_is_refused(override, words, tmp_path):
    assert words in refused("prune: {}\ncut: {}\nseed: 1", tmp_path, override)


@settings(max_examples=20)
@given(
    sparsity=st.floats(0, 0.9),
    steps=st.integers(2, 10**6),
    text=st.text(st.characters(blacklist_categories=("Cs", "Cc")), min_size=1),
)
def test_any_valid_recipe_reads_back_the_same(sparsity, steps, text):
    content = {
        "name": text,
        "prune": {"sparsity": sparsity, "steps": steps},
        "cut": {},
        "text": {"data": text},
    }
    recipe = validate(content, "here")
    assert validate(yaml.safe_load(recipe.to_yaml()), "here") == recipe


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("sparsify: {}", r"channels\+heads are for `prune`; give it a pattern such as 4x16"),
        (
            "prune: {pattern: weights}\nsparsify: {pattern: 4x16}",
            "would give back weights that pruning in the pattern weights removed",
        ),
    ],
)
def test_weights_are_pruned_once(content, reason, tmp_path):
    with pytest.raises(UserError, match=reason):
        read_recipe(write(tmp_path, content))


# explanations ----------------------------------------------------------------------------------


@pytest.mark.parametrize("method", METHODS)
def test_explain_covers_every_setting_with_a_description(method):
    pruning = {"method": method}
    stages = {"prune": pruning, "cut": {}, "recover": {}, "quantize": {}}
    if method == "momentum-variance":
        stages["sparsify"] = {"pattern": "4x16"}
    everything = validate(stages, "here")
    rows = {name: (value, default, text) for name, value, default, text in explain(everything)}
    expected = {"model", "seed", "target", "variants"}
    for stage in Recipe.model_fields:
        part = getattr(everything, stage)
        if isinstance(part, BaseModel):
            expected |= {f"{stage}.{key}" for key in type(part).model_fields}
    assert set(rows) == expected
    for name, (_, _, text) in rows.items():
        assert len(text.split()) >= 2, name
        assert text[0].isupper() or text[0] in "'ln", name
        assert text.endswith("."), name


def test_explain_shows_what_a_recipe_changed():
    rows = {name: (value, default) for name, value, default, _ in explain(read_recipe("encoder"))}
    assert rows["prune.sparsity"] == ("0.57", "0.5")
    assert rows["recover.steps"] == (str(read_recipe("encoder").recover.steps), "1000")
    assert "cut.score" in rows
    int8 = [name for name, *_ in explain(read_recipe("encoder-int8"))]
    assert not [name for name in int8 if name.startswith(("prune.", "cut.", "recover."))]


@pytest.mark.parametrize("method", METHODS)
def test_every_method_of_pruning_reads_back_and_names_a_function(method, tmp_path):
    pattern = {"momentum-variance": "channels", "search": "weights"}.get(method, "2:4")
    content = f"prune: {{method: {method}, pattern: {pattern}}}\ncut: {{}}"
    recipe = read_recipe(write(tmp_path, content))
    assert type(recipe.prune) is METHODS[method].settings
    assert recipe.prune.sparsity == 0.5
    assert read_recipe(write(tmp_path, recipe.to_yaml())) == recipe
    assert callable(load_function(METHODS[method].function))
    without = [name for name, *_ in explain(recipe) if name == "prune.method"]
    assert len(without) == 1


def test_pruning_without_a_method_is_momentum_variance(tmp_path):
    recipe = read_recipe(write(tmp_path, "prune: {}\ncut: {}"))
    assert recipe.prune == METHODS["momentum-variance"].settings()
    changed = read_recipe(write(tmp_path, "prune: {}\ncut: {}"), ["prune={method: wanda}"])
    assert changed.prune == METHODS["wanda"].settings()


def test_settings_files_import_no_torch():
    root = Path(edgeprune.__file__).parent
    modules = [
        "edgeprune." + ".".join(file.relative_to(root).with_suffix("").parts)
        for file in sorted(root.rglob("*settings.py"))
    ]
    assert len(modules) >= 7
    code = f"import sys, {', '.join(modules)}\nprint(*sys.modules)"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not set(run.stdout.split()) & {"torch", "transformers", "optimum", "safetensors"}


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("name: &a [*a]\n", "an alias stands for itself"),
        ("text: &a {data: *a}\n", "an alias stands for itself"),
        (
            "".join(
                f"x{n}: &x{n} [{', '.join([f'*x{n - 1}'] * 9 if n else ['lol'])}]\n"
                for n in range(12)
            ),
            "its aliases stand for too much",
        ),
        (
            "".join(
                f"x{n}: &x{n} {{a: [{', '.join([f'*x{n - 1}'] * 9 if n else ['lol'])}], b: 1}}\n"
                for n in range(40)
            ),
            "its aliases stand for too much",
        ),
    ],
)
def test_aliases_that_would_fill_the_memory_are_refused(content, words, tmp_path):
    file = tmp_path / "r.yaml"
    file.write_text(content)
    with pytest.raises(UserError, match=rf"^{re.escape(str(file))} .*{words} at line \d+"):
        read_recipe(str(file))


def test_aliases_of_ordinary_size_are_read(tmp_path):
    file = tmp_path / "r.yaml"
    file.write_text("measure: &m {tokens: 16}\ntext: {max_tokens: 16}\nprune: off\n")
    assert read_recipe(str(file)).measure.tokens == 16
    file.write_text("recover: {<<: &more {steps: 7}, checks: 2}\n")
    assert read_recipe(str(file)).recover.steps == 7


# what is shown ---------------------------------------------------------------------------------


def shown(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> str:
    monkeypatch.setenv("COLUMNS", "80")
    done = CliRunner().invoke(main, ["recipes", *arguments])
    assert done.exit_code == 0, done.output
    return done.stdout


def test_the_list_is_short_and_says_what_was_measured(monkeypatch):
    listed = shown(monkeypatch)
    assert all(name in listed for name in SHIPPED)
    assert len(listed.splitlines()) < 8 * len(shipped())
    assert "prune.method" not in listed
    assert "prune.method" in shown(monkeypatch, "--all")
    result = json.loads(shown(monkeypatch, "--json", "-"))
    ratio, _, _ = json.loads(builds.MEASURED.read_text())["encoder"]["speed"]["encoder"]
    assert f"{ratio:.2f}x faster" in result["recipes"]["encoder"]["measured"]
    assert result["recipes"]["decoder-int4"]["measured"] == ""


@pytest.mark.parametrize("name", SHIPPED)
def test_a_recipe_is_shown_by_its_file_and_what_it_sets(name, monkeypatch):
    brief, every = shown(monkeypatch, name), shown(monkeypatch, name, "--all")
    assert shipped()[name].read_text() in brief  # may be copied
    assert len(brief.splitlines()) < 110 < len(every.splitlines())
    settings = json.loads(shown(monkeypatch, name, "--json", "-"))["settings"]
    assert all(row["value"] != row["default"] for row in settings)
    every = json.loads(shown(monkeypatch, name, "--all", "--json", "-"))["settings"]
    assert [row["setting"] for row in every] == [row[0] for row in explain(read_recipe(name))]


def test_a_names_parts_stay_whole_however_narrow_the_terminal():
    names = [row[0] for row in explain(read_recipe("encoder"))]
    table = Table("setting", "meaning", box=None)
    for name in names:
        table.add_row(Name(name), "word " * 30)
    console = Console(width=40, file=io.StringIO())
    console.print(table)
    found = console.file.getvalue()
    pieces = {line.split()[0] for line in found.splitlines()[1:] if not line.startswith(" ")}
    assert "".join(parts_of("a.b_c/d")) == "a.b_c/d"
    for piece in pieces:
        assert any(
            re.search(rf"(?:^|[._/]){re.escape(piece)}", name)
            and (piece[-1] in "._/" or name.endswith(piece))
            for name in names
        ), piece
