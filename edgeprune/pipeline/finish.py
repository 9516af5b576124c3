"""The end of a build: bundles, manifest, report."""

import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from edgeprune.base.disk import telling_of_a_full_disk
from edgeprune.base.places import called, without_places
from edgeprune.export.rewrite.row import REWRITE
from edgeprune.export.row import ORIGINAL
from edgeprune.kernels.formats import DOMAIN, is_operator
from edgeprune.kernels.library import system_facts
from edgeprune.measure.record import Measured
from edgeprune.measure.requirements import missed
from edgeprune.model.settings import max_positions
from edgeprune.model.tasks import TASKS
from edgeprune.pipeline.build import Build
from edgeprune.pipeline.command import command_of
from edgeprune.pipeline.keep import MARK, RECORD, Done
from edgeprune.pipeline.keys import model_digest, reads, versions
from edgeprune.pipeline.measure.row import MEASURE
from edgeprune.report.card import model_card
from edgeprune.report.write import write_report
from edgeprune.runtime.bundle import Bundle, write_bundle
from edgeprune.runtime.onnx_file import read_outline
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


def finish(build: Build, done: Mapping[str, Done]) -> Outcome:
    """Write both bundles and the report of what the stages left."""
    context = build.context
    facts = _published_facts(build, done)
    stages = facts.pop("stages")
    assets = context.folders[REWRITE.name]
    shared = {
        "task": context.checkpoint.task,
        "max_length": max_positions(context.checkpoint.config),
    }
    if TASKS[context.checkpoint.task].pools:
        shared["similarity"] = read_library(assets).similarity
    manifest = {**shared, **facts, **_kernels(assets / "onnx" / "model.onnx"), "stages": stages}
    if context.streamed:
        bundle = _write(
            context.output / "bundle", assets, {**manifest, "not_measured": NOT_MEASURED}
        )
        return Outcome(bundle.folder, None, None, [])
    bundle = _write(context.output / "bundle", assets, manifest, model_card)
    about = {name: facts[name] for name in ("source", "made_with")}
    plain = {**shared, **about, "stages": [], "recipe": {"name": "original"}}
    original = _write(context.output / "original", context.folders[ORIGINAL.name], plain)
    # Apart from the manifest, which is the same whenever it is written.
    about_build = {"at": f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC", "command": command_of(build)}
    report = write_report(
        context.output,
        {**facts, "task": shared["task"], "built": about_build, "stages": stages},
    )
    measured = context.results[MEASURE.name]
    assert isinstance(measured, Measured)
    return Outcome(
        bundle.folder,
        original.folder,
        report,
        missed(measured, build.recipe.require),
    )


def _published_facts(build: Build, done: Mapping[str, Done]) -> dict[str, Any]:
    """The facts of the build for manifest and report, without the places of this machine."""
    recipe, context = build.recipe, build.context
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
        "stages": [{"name": name, **each.to_json()} for name, each in done.items()],
    }
    named = [context.checkpoint.name, recipe.model, *recipe.text.data]
    for settings in context.settings.values():
        data = getattr(settings, "data", None) or ()
        named += [data] if isinstance(data, str) else data
        start = getattr(settings, "start", None)  # of a shape; of other stages a number
        named += [start] if isinstance(start, str) else []
    return without_places(facts, context.output / MARK, [place for place in named if place])


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
    card: Callable[[Bundle], str] | None = None,
) -> Bundle:
    assets = built.parent / f".assets-{built.name}"
    shutil.rmtree(assets, ignore_errors=True)
    try:
        with telling_of_a_full_disk(folder):
            graph = shutil.ignore_patterns("model.onnx", "model.onnx_data", RECORD)
            shutil.copytree(built, assets, ignore=graph)
            return write_bundle(folder, built / "onnx", assets, manifest, card)
    finally:
        shutil.rmtree(assets, ignore_errors=True)
