"""Build every recipe that ships and measure what it reached: speed, quality, bytes, build cost.

    EDGEPRUNE_DATA=<folder> python benchmarks/recipes.py [--only NAME]... [--work FOLDER]

One line of JSON a row in benchmarks/results/recipes.jsonl, some of which dry runs and `edgeprune
recipes` show; a row that is there is not run again, so an interrupted run goes on. The rows beside
encoder and encoder-fast take as long in all as they: a one-shot Fisher cut, whose recovery gets
pruning's time too, and the cubic budget with the same saliency. finetune.py makes the
classifiers. No STS-B sentence takes part in building: it is read when the bundle is finished.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from results_file import add_result, read_results

from edgeprune.measure.bench.compare import compare
from edgeprune.measure.bench.settings import BenchSettings
from edgeprune.measure.evaluate.measures import evaluate
from edgeprune.pipeline import builds
from edgeprune.pipeline.recipe import read_recipe

HERE = Path(__file__).parent
RESULTS = HERE / "results" / "recipes.jsonl"
WIKI = "text/wikitext2.train.txt"


@dataclass(frozen=True)
class Row:
    """One build: a recipe, the text that it learns from, and what was changed in it.

    text: a file of EDGEPRUNE_DATA; None is the recipe's own.
    """

    name: str
    recipe: str
    text: str | None
    task: str
    data: str
    variant: str = "momentum-variance"
    overrides: tuple[str, ...] = ()
    model: str | None = None
    fields: tuple[str, ...] = ()
    """NAME=YOURS, each."""
    limit: int | None = None
    beside: str | None = None
    """The row whose time this one gets."""


def rows(work: Path) -> list[Row]:
    """Every row, in the order in which they run."""
    made = []
    sts = {"task": "sts", "data": "pairs/stsb.dev.jsonl"}
    for text, label in ((None, ""), (WIKI, ", wikitext")):
        for recipe in ("encoder", "encoder-fast"):
            name = f"{recipe}{label}"
            made.append(Row(name, recipe, text, **sts))
            made.append(
                Row(
                    f"{name}, cubic",
                    recipe,
                    text,
                    variant="cubic budget",
                    overrides=("prune.budget=cubic",),
                    **sts,
                )
            )
            one = {"variant": "one-shot Fisher", "beside": name}
            made.append(Row(f"{name}, one-shot", recipe, text, **one, **sts))
    made.append(Row("encoder-int8", "encoder-int8", None, variant="nothing removed", **sts))
    made.append(Row("embedder", "embedder", None, variant="a scale per token", **sts))
    made.append(Row("encoder-sparse", "encoder-sparse", None, variant="a cut, then blocks", **sts))
    made.append(
        Row(
            "classifier",
            "classifier",
            "classify/sst2.train.jsonl",
            "classification",
            "classify/sst2.dev.jsonl",
            model=str(work / "sst2-minilm"),
        )
    )
    made.append(
        Row(
            "classifier, 77 intents",
            "classifier",
            "classify/intents77.train.csv",
            "classification",
            "classify/intents77.dev.csv",
            model=str(work / "intents77-minilm"),
            fields=("label=category",),
        )
    )
    decoders = {
        "decoder": "one-shot Fisher",
        "decoder-int4": "GPTQ",
        "decoder-fast": "GPTQ",
        "decoder-sparse": "SparseGPT",
    }
    for recipe, variant in decoders.items():
        valid = "text/wikitext2.valid.txt"
        made.append(Row(recipe, recipe, WIKI, "perplexity", valid, variant, limit=64))
    # The main rows first: the comparisons beside them can be interrupted.
    return sorted(made, key=lambda row: row.variant == "cubic budget" or row.beside is not None)


def main() -> None:
    """Run what is not there yet, then print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", action="append", help="a row's name")
    parser.add_argument("--work", type=Path, default=Path("build") / "benchmarks")
    parser.add_argument("--table", action="store_true", help="print what is there, run nothing")
    given = parser.parse_args()
    data = os.environ.get("EDGEPRUNE_DATA")
    if not data and not given.table:
        sys.exit("Point EDGEPRUNE_DATA at the folder with the texts (see the README).")
    done = read_results(RESULTS)
    for row in [] if given.table else rows(given.work):
        wanted = not given.only or row.name in given.only
        if wanted and row.name not in done:
            done[row.name] = measure(row, Path(str(data)), given.work, done)
            add_result(RESULTS, done[row.name])
    builds.write(done)
    print(table(done))


def measure(row: Row, data: Path, work: Path, done: dict[str, Any]) -> dict[str, Any]:
    """Build a row with the command line, then measure speed and quality beside the original."""
    output = work / row.name.replace(", ", "-").replace(" ", "-")
    overrides = list(row.overrides)
    if row.beside:
        overrides += one_shot(row.recipe, done[row.beside])
    command = [sys.executable, "-m", "edgeprune", "build", row.recipe, "--fresh"]
    command += ["--output", str(output)]
    command += ["--data", str(data / row.text)] if row.text else []
    command += ["--model", row.model] if row.model else []
    for field in row.fields:
        command += ["--field", field]
    for override in overrides:
        command += ["--set", override]
    started = time.monotonic()
    process = subprocess.Popen(command)
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        sys.exit(f"{row.name}: the build failed")
    seconds = time.monotonic() - started
    bundle, original = output / "bundle", output / "original"
    speed = compare(bundle, original, BenchSettings(time_limit=40.0)).to_json()
    fields = dict(field.split("=") for field in row.fields)
    found = evaluate(bundle, row.task, data / row.data, row.limit, original, fields=fields)
    quality = found.to_json()
    facts = asdict(row)
    for result in (speed["candidate"], speed["baseline"], quality, facts):
        _forget_places(result, (data, work))
    stages = json.loads((output / "report.json").read_text())["stages"]
    return {
        "name": row.name,
        "row": facts,
        "overrides": overrides,
        "build_seconds": round(seconds),
        "build_peak_megabytes": round(usage.ru_maxrss / 1024),
        "stage_seconds": {stage["name"]: stage["seconds"] for stage in stages},
        "recipe": read_recipe(row.recipe, overrides).model_dump(mode="json"),
        "speed": speed,
        "quality": quality,
    }


def _forget_places(result: dict[str, Any], roots: tuple[Path, ...]) -> None:
    """Name files by where they are in the data or the work folder, not on this machine."""
    for key, value in result.items():
        for root in roots:
            if isinstance(value, str) and value.startswith(f"{root}/"):
                result[key] = value.removeprefix(f"{root}/")


def one_shot(recipe: str, beside: dict[str, Any]) -> list[str]:
    """The same sizes in one shot; recovery also gets the time that pruning took."""
    settings = read_recipe(recipe, beside["overrides"])
    assert settings.prune is not None
    assert settings.recover is not None
    seconds = beside["stage_seconds"]
    a_step = seconds["recover"] / settings.recover.steps
    steps = settings.recover.steps + round(seconds["prune"] / a_step)
    return [
        "prune=off",
        f"cut.channels={settings.prune.sparsity}",
        f"cut.heads={settings.prune.head_sparsity}",
        f"recover.steps={steps}",
    ]


def table(done: dict[str, Any]) -> str:
    """The rows as Markdown."""
    lines = [
        "| recipe | method | speed (95 % interval) | quality: original, result, change "
        "| MB | build |",
        "|---|---|---|---|---|---|",
    ]
    for result in done.values():
        speed = "; ".join(
            f"{'' if work == 'encoder' else work + ' '}{times['ratio']['value']:.2f}x "
            f"({times['ratio']['low']:.2f}-{times['ratio']['high']:.2f})"
            for work, times in result["speed"]["measures"].items()
        )
        key, value = next(iter(result["quality"]["values"].items()))
        before = result["quality"]["original"][key]
        change = f"{100 * (value / before - 1):+.1f} %" if key == "perplexity" else None
        scale = 1 if key == "perplexity" or abs(before) > 1 else 100
        quality = (
            f"{key} {scale * before:.2f}, {scale * value:.2f}, "
            f"{change or f'{scale * (value - before):+.2f}'}"
        )
        megabytes = result["speed"]["candidate"]["model_bytes"] / 1e6
        gigabytes = result["build_peak_megabytes"] / 1024
        build = f"{result['build_seconds'] / 60:.1f} min, {gigabytes:.1f} GB"
        lines.append(
            f"| {result['name']} | {result['row']['variant']} | {speed} | {quality} "
            f"| {megabytes:.1f} | {build} |"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    main()
