"""The end of a build: bundles, manifest, report."""

import shutil
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from edgeprune.base.disk import telling_of_a_full_disk
from edgeprune.base.places import called, without_places
from edgeprune.compress.context import Context
from edgeprune.compress.quantize.plan import QUANT, SPARSE
from edgeprune.compress.quantize.row import QUANTIZE
from edgeprune.export.client_files import ONNX
from edgeprune.export.rewrite.row import REWRITE
from edgeprune.export.row import ORIGINAL
from edgeprune.export.shared_data import shared_data
from edgeprune.kernels.formats import DOMAIN, is_operator
from edgeprune.kernels.library import system_facts
from edgeprune.measure.record import Measured
from edgeprune.measure.requirements import missed
from edgeprune.model.settings import max_positions
from edgeprune.model.tasks import TASKS
from edgeprune.pipeline.build import Build
from edgeprune.pipeline.command import command_of
from edgeprune.pipeline.keep import GRAPHS, MARK, RECORD, Done
from edgeprune.pipeline.keys import model_digest, reads, versions
from edgeprune.pipeline.measure.row import MEASURE
from edgeprune.pipeline.variants import Variant
from edgeprune.report.card import model_card
from edgeprune.report.write import write_report
from edgeprune.runtime.bundle import Bundle, write_bundle
from edgeprune.runtime.onnx_file import read_outline
from edgeprune.targets.format_times import form_name
from edgeprune.text.prompts import read_library

NOT_MEASURED = (
    "The weights of the original were streamed, so that it was not measured beside this bundle: "
    "`edgeprune bench` and `edgeprune evaluate` measure the bundle alone."
)
"""The manifest of a streamed model's bundle says this under "not_measured"."""


@dataclass(frozen=True)
class Outcome:
    """The files of a finished build, and the requirements that it missed."""

    bundle: Path
    original: Path | None
    """None, as the report's page, where the original was streamed."""
    report: Path | None
    missed: list[str]


@dataclass(frozen=True)
class Made:
    """One variant as its stages left it."""

    variant: Variant
    context: Context
    done: Mapping[str, Done]
    """The records of these; of the first also those that all share."""

    @property
    def graph(self) -> Path:
        """The file of its graph, beside its data."""
        return self.context.folders[REWRITE.name] / ONNX / "model.onnx"


def finish(build: Build, made: Sequence[Made]) -> Outcome:
    """Write both bundles and the report of what the stages left."""
    first = made[0]
    context = first.context
    facts = _published_facts(build, made)
    stages = facts.pop("stages")
    assets = context.folders[REWRITE.name]
    shared = {
        "task": context.checkpoint.task,
        "max_length": max_positions(context.checkpoint.config),
    }
    if TASKS[context.checkpoint.task].pools:
        shared["similarity"] = read_library(assets).similarity
    variants = facts.pop("variants")
    manifest = {**shared, **facts, **_kernels(first.graph), "stages": stages, "variants": variants}
    bundle = context.output / "bundle"
    with TemporaryDirectory(prefix=GRAPHS, dir=context.output) as scratch:
        graphs = shared_data(
            {each.variant.file: each.graph for each in made},
            [each.variant.file for each in made if each.variant.shares],
            Path(scratch),
        )
        if context.streamed:
            _write(bundle, assets, {**manifest, "not_measured": NOT_MEASURED}, graphs)
            return Outcome(bundle, None, None, [])
        _write(bundle, assets, manifest, graphs, model_card)
    about = {name: facts[name] for name in ("source", "made_with")}
    plain = {**shared, **about, "stages": [], "recipe": {"name": "original"}}
    untouched = context.folders[ORIGINAL.name]
    original = {f"{ONNX}/model.onnx": untouched / ONNX / "model.onnx"}
    _write(context.output / "original", untouched, plain, original)
    # Apart from the manifest, which is the same whenever it is written.
    about_build = {"at": f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC", "command": command_of(build)}
    report = write_report(
        context.output,
        {**facts, "task": shared["task"], "built": about_build, "stages": stages},
    )
    measured = context.results[MEASURE.name]
    assert isinstance(measured, Measured)
    return Outcome(
        bundle,
        context.output / "original",
        report,
        missed(measured, build.recipe.require),
    )


def _published_facts(build: Build, made: Sequence[Made]) -> dict[str, Any]:
    """The facts of the build for manifest and report, without the places of this machine."""
    recipe, context = build.recipe, made[0].context
    libraries = {
        library
        for stage in build.stages
        for function in (stage.run, *stage.asks(TASKS[context.checkpoint.task]))
        for library in reads(function).libraries
    }
    facts = {
        "source": {
            "model": context.checkpoint.name,
            "sha256": model_digest(context.checkpoint),
        },
        "text": {
            **context.text.facts(),
            "source": " and ".join(map(called, recipe.text.data)),
        },
        "recipe": recipe.model_dump(mode="json"),
        "target": context.target.to_json(),
        "made_with": versions(libraries),
        "stages": _told(made[0].done),
        "variants": [_entry(each, first=each is made[0]) for each in made],
    }
    named = [context.checkpoint.name, recipe.model, *recipe.text.data]
    for settings in context.settings.values():
        data = getattr(settings, "data", None) or ()
        named += [data] if isinstance(data, str) else data
        start = getattr(settings, "start", None)  # of a shape; of other stages a number
        named += [start] if isinstance(start, str) else []
    return without_places(facts, context.output / MARK, [place for place in named if place])


def _told(done: Mapping[str, Done]) -> list[dict[str, Any]]:
    return [{"name": name, **each.to_json()} for name, each in done.items()]


def _entry(made: Made, first: bool) -> dict[str, Any]:
    """A variant's entry in the manifest: what runtime/variants.py chooses by, and what its own
    stages did, which of the first stands at the manifest's head."""
    variant, results = made.variant, made.context.results
    quantized, measured = results.get(QUANTIZE.name), results.get(MEASURE.name)
    entry: dict[str, Any] = {
        "name": variant.name,
        "file": variant.file,
        "target": variant.target.name,
        "hub": None if quantized is None else variant.target.hub,
        **_products([] if quantized is None else quantized.to_json()["plan"]["entries"]),
    }
    if isinstance(measured, Measured):
        machine = measured.speed.machine
        ratios = {
            work: [found.ratio.low, found.ratio.high]
            for work, found in measured.speed.measures.items()
        }
        entry["measured"] = {"processor": machine.processor, "ratios": ratios}
    own = {} if first else {**_kernels(made.graph), "stages": _told(made.done)}
    return {**entry, **own}


def _products(plan: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Bits of a plan's INT8 products, and how many linears of each shape it has in each format."""
    tables = {"int8-rows", "float32"}
    linears = [each for each in plan if each["format"] not in tables]
    int8 = {"int8", "int8-token", *SPARSE}
    bits = [each["bits"] for each in linears if each["format"] in int8]
    bits += [8 for each in linears if each["format"] in QUANT.values()]  # by their functions
    counted = Counter(
        (form_name(each["format"], each.get("group")), each["shape"][1], each["shape"][0])
        for each in linears
    )
    return {
        "int8_bits": max(bits, default=None),
        "linears": [[*shape, count] for shape, count in counted.items()],
    }


def _kernels(model: Path) -> dict[str, Any]:
    """Which operators of edgeprune.kernels a file can use, and what it was measured with."""
    outline = read_outline(model)
    if DOMAIN not in outline.domains:
        return {}
    operators = {name: n for name, n in outline.operators.items() if is_operator(name)}
    return {
        "kernels": {"operators": operators, "measured_with": system_facts()["chosen"] or "none"}
    }


def _write(
    folder: Path,
    built: Path,
    manifest: dict[str, Any],
    graphs: Mapping[str, Path],
    card: Callable[[Bundle], str] | None = None,
) -> Bundle:
    # Reading graphs needs the build install, and a dry run on a device imports this file.
    from edgeprune.export.genai_config import write_genai_config

    assets = built.parent / f".assets-{built.name}"
    shutil.rmtree(assets, ignore_errors=True)
    try:
        with telling_of_a_full_disk(folder):
            graph = shutil.ignore_patterns("model.onnx", "model.onnx_data", RECORD)
            shutil.copytree(built, assets, ignore=graph)
            if TASKS[manifest["task"]].generates:
                place, file = next(iter(graphs.items()))
                write_genai_config(assets, file, place)
            return write_bundle(folder, graphs, assets, manifest, card)
    finally:
        shutil.rmtree(assets, ignore_errors=True)
