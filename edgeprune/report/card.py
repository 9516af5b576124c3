"""The model card: README.md of a bundle, by the conventions of the Hugging Face hub.

YAML that the hub reads, then the report's words and numbers. The hub's own documentation of both:
huggingface.co/docs/hub/model-cards.
"""

import re
from pathlib import Path
from typing import Any

import yaml
from markupsafe import Markup

from edgeprune.base.escape import markdown
from edgeprune.model.tasks import TASKS
from edgeprune.report.figures import Cell, comparison, conditions
from edgeprune.report.layout import environment
from edgeprune.report.made import made
from edgeprune.report.records import BuildRecord, data_name
from edgeprune.report.story import (
    meaning,
    not_measured,
    requirements,
    told,
    told_parts,
    verdict,
)
from edgeprune.runtime.bundle import Bundle
from edgeprune.text.chat_template import chat_template
from edgeprune.text.pair_template import PAIR_TEMPLATE

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")
_FOLDERS = re.compile(r"(?<!\S)[~.]{0,2}/(\S*/)?(?=\S)")
_MODULES = "modules.json"


def model_card(bundle: Bundle) -> str:
    """A built bundle's README.md."""
    manifest = bundle.manifest
    record = BuildRecord(str(manifest["recipe"]["name"]), manifest)
    result, judged = made(record), requirements(record)
    base = _base_model(record.model)
    pools = TASKS[record.task].pools
    sentences = pools and (bundle.folder / _MODULES).is_file()
    learned, variants = manifest["text"], manifest.get("variants", [])
    content = {
        "front": _front(record, result.name, base, sentences),
        "title": result.title,
        "name": result.name,
        "recipe": record.name,
        "model": _public(record.model),
        "base_model": base,
        "version": manifest["edgeprune"],
        "runtime": manifest["minimum_onnxruntime"],
        "description": result.sentence,
        "verdict": verdict(judged),
        "required": [
            [
                *(
                    markdown(str(cell))
                    for cell in (each.of, each.asked, Cell(each.measured, each.interval))
                ),
                "met" if each.met else Markup("**missed**"),
            ]
            for each in judged
        ],
        "rows": [
            [markdown(str(cell)) for cell in (row.what, row.original, row.result, row.change)]
            for row in comparison(record)
        ],
        "conditions": conditions(record),
        "meaning": meaning(record),
        "parts": told_parts(record),
        "stages": told(record),
        "text": f"{learned['documents']:,} texts of {_public(learned['source'])}",
        "target": manifest["target"]["name"],
        "files": [
            {"name": name, **entry}
            for name, entry in manifest["files"].items()
            if name.startswith("onnx/") and entry["bytes"]
        ],
        "variants": variants if len(variants) > 1 else [],
        "use": TASKS[record.task].card,
        "sentence_transformers": sentences,
        "prompts": ", ".join(name for name, text in bundle.library.prompts.items() if text),
        "chat": chat_template(bundle.folder, bundle.tokenizer_config) is not None,
        "around_pairs": (bundle.folder / PAIR_TEMPLATE).is_file(),
        "kernels": "kernels" in manifest,
        "limits": not_measured(record),
    }
    return environment(markdown).get_template("card.md").render(content)


def _front(record: BuildRecord, name: str, base: str | None, sentences: bool) -> str:
    """The card's metadata as YAML."""
    row = TASKS[record.task]
    task = "sentence-similarity" if sentences else row.tag or row.name
    stages = {stage["name"] for stage in record.content["stages"]}
    content: dict[str, Any] = {}
    if base:
        content["base_model"] = base
        if "quantize" in stages:
            content["base_model_relation"] = "quantized"
    content |= {
        "library_name": "sentence-transformers" if sentences else "transformers.js",
        "pipeline_tag": task,
        "tags": _tags(record, stages),
        "model-index": [{"name": name, "results": _results(record, task)}],
    }
    return yaml.safe_dump(content, sort_keys=False, allow_unicode=True).rstrip()


def _tags(record: BuildRecord, stages: set[str]) -> list[str]:
    tags = ["onnx", "onnxruntime", "edgeprune", "cpu", record.task]
    if stages & {"prune", "cut", "shape", "sparsify"}:
        tags.append("pruned")
    if "recover" in stages:
        tags.append("distilled")
    entries = record.stage("quantize").get("plan", {}).get("entries", [])
    bits = {entry["bits"] for entry in entries if entry["format"] != "float32"}
    return tags + [f"int{width}" for width in sorted({4 if b <= 4 else 8 for b in bits})]


def _results(record: BuildRecord, task: str) -> list[dict[str, Any]]:
    """Every quality measure as the hub's model-index has it."""
    found = []
    for quality in record.quality:
        name = data_name(quality.data)
        # Measures that compare with the original say so; a reader of one number cannot know.
        to_original = "" if quality.original else ", to the original"
        found.append(
            {
                "task": {"type": task},
                "dataset": {"type": re.sub(r"\W+", "-", name), "name": name},
                "metrics": [
                    {"type": key, "name": f"{key.replace('_', ' ')}{to_original}", "value": value}
                    for key, value in quality.values.items()
                ],
            }
        )
    return found


def _base_model(model: str) -> str | None:
    """The id on the hub, where the model was named by one."""
    named = _HUB_ID.fullmatch(model) and not Path(model).exists()
    return model if named else None


def _public(text: str) -> str:
    """Text whose paths of this machine are shortened to their last parts."""
    return _FOLDERS.sub("", text)
