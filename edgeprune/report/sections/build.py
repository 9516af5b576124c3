"""Every section of one build's page.

What a stage that did not run would have shown has no section; what a build did not record, or was
told not to measure, its section says.
"""

import json
from collections.abc import Sequence

from edgeprune.export.stages import MAKING
from edgeprune.report.others import Other
from edgeprune.report.points import points
from edgeprune.report.records import BuildRecord
from edgeprune.report.sections.breakdown import breakdown
from edgeprune.report.sections.model import formats, layers, passes, stages
from edgeprune.report.sections.part import Section
from edgeprune.report.sections.sensitivity import sensitivity
from edgeprune.report.sections.speed import latency, operators, required, result, speed_quality
from edgeprune.report.sections.training import pruning, training
from edgeprune.report.story import not_measured


def sections(record: BuildRecord, others: Sequence[Other] = ()) -> list[Section]:
    """Every part of a build's page that has something to show, in order."""
    every = [
        required(record),
        result(record),
        breakdown(record),
        speed_quality(record, others),
        latency(record),
        stages(record),
        operators(record),
        layers(record),
        formats(record),
        sensitivity(record),
        *pruning(record),
        training(record),
        passes(record),
        _not_measured(record, others),
        _recipe(record),
    ]
    return [section for section in every if not section.empty]


def _not_measured(record: BuildRecord, others: Sequence[Other]) -> Section:
    found = [p for p in points(record, others, record.works[0]) if p.kind == "other"]
    items = not_measured(record, found)
    return Section("not-measured", "Not measured", items=items)


def _recipe(record: BuildRecord) -> Section:
    """Every setting, as a recipe that reads back: a stage that did not run is off there."""
    stages = {stage.name for stage in MAKING}
    content = {
        name: "off" if value is None and name in stages else value
        for name, value in record.recipe.items()
    }
    text = "Saved as recipe.yaml, what opens here builds the same again." if content else ""
    code = json.dumps(content, indent=2, ensure_ascii=False)
    return Section("recipe", "Recipe", code=code, text=text)
