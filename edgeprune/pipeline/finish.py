"""The end of a build: bundles, manifest, report."""

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgeprune.base.disk import telling_of_a_full_disk
from edgeprune.base.places import called, without_places
from edgeprune.compress.context import Build
from edgeprune.kernels.formats import DOMAIN, is_operator
from edgeprune.kernels.library import system_facts
from edgeprune.measure.record import Measured
from edgeprune.measure.requirements import missed
from edgeprune.model.families import max_positions
from edgeprune.model.tasks import text_kind
from edgeprune.pipeline.keep import MARK, RECORD
from edgeprune.pipeline.keys import model_digest, reads, versions
from edgeprune.pipeline.recipe import wanted_stages
from edgeprune.report.card import model_card
from edgeprune.report.write import write_report
from edgeprune.runtime.bundle import Bundle, write_bundle
from edgeprune.runtime.onnx_file import read_outline
from edgeprune.targets import find


@dataclass(frozen=True)
class Outcome:
    """What a build left behind."""

    bundle: Path
    original: Path
    report: Path
    results: dict[str, Any]
    missed: list[str]


def finish(build: Build) -> Outcome:
    facts = _published_facts(build)
    stages = facts.pop("stages")
    assets = build.folders["rewrite"]
    shared = {
        "task": build.checkpoint.task,
        "max_length": max_positions(build.checkpoint.config),
    }
    manifest = {**shared, **facts, **_kernels(assets / "onnx" / "model.onnx"), "stages": stages}
    bundle = _write(build.output / "bundle", assets, manifest, model_card)
    about = {name: facts[name] for name in ("source", "made_with")}
    plain = {**shared, **about, "stages": [], "recipe": {"name": "original"}}
    original = _write(build.output / "original", build.folders["original"], plain)
    report = write_report(build.output, {**facts, "task": shared["task"], "stages": stages})
    return Outcome(
        bundle.folder,
        original.folder,
        report,
        build.results,
        missed(Measured.model_validate(build.results["measure"]), build.recipe.require),
    )


def _published_facts(build: Build) -> dict[str, Any]:
    """What manifest and report say of the build, without the places of this machine."""
    recipe = build.recipe
    libraries = {
        name for entry in wanted_stages(recipe) for name in reads(entry.function).libraries
    }
    more = recipe.vocabulary.data if recipe.vocabulary else ()
    named = (build.checkpoint.name, recipe.model, *recipe.text.data, *more, recipe.measure.data)
    facts = {
        "source": {
            "model": build.checkpoint.name,
            "sha256": model_digest(build.checkpoint),
        },
        "text": {
            **build.corpus.facts(text_kind(build.checkpoint.task)),
            "source": " and ".join(map(called, recipe.text.data)),
        },
        "recipe": recipe.model_dump(mode="json"),
        "target": find(recipe.target).to_json(),
        "made_with": versions(libraries),
        "stages": [{"name": name, **result} for name, result in build.results.items()],
    }
    return without_places(facts, build.output / MARK, [place for place in named if place])


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
            shutil.copytree(built, assets, ignore=shutil.ignore_patterns("onnx", RECORD))
            return write_bundle(folder, built / "onnx", assets, manifest, card)
    finally:
        shutil.rmtree(assets, ignore_errors=True)
