"""The row of the measure stage, which puts the bundle beside the original."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from edgeprune.base.errors import UserError
from edgeprune.base.registry import load_function
from edgeprune.compress.context import Context
from edgeprune.compress.facts import Facts
from edgeprune.compress.stage import Stage
from edgeprune.measure.bench.settings import BenchSettings
from edgeprune.measure.evaluate.data import Data
from edgeprune.measure.evaluate.measures import MEASURES, Measure
from edgeprune.measure.record import Measured
from edgeprune.model.settings import max_positions
from edgeprune.model.tasks import TASKS
from edgeprune.pipeline.keys import data_digest, processor_digest
from edgeprune.pipeline.measure.settings import OWN_TASKS, MeasureSettings
from edgeprune.runtime.bundle import Bundle


def _refuse(settings: MeasureSettings, facts: Facts) -> None:
    _refuse_length(settings, facts)
    checkpoint, task, data = facts.checkpoint, settings.task, settings.data
    if task is None:
        return
    if data is None:
        raise UserError("measure.task needs measure.data, the file that it reads.")
    if (instead := MEASURES[task].per_token) and "vocabulary" in facts.settings:
        raise UserError(
            f"measure.task is {task}, which is not comparable once `vocabulary` trims the "
            f"tokenizer: leave one of them out ({instead} is measured anyway)."
        )
    if not Path(data).exists():
        raise UserError(f"measure.data: there is no file {data}.")
    if checkpoint.task not in MEASURES[task].tasks:
        fitting = [name for name in OWN_TASKS if checkpoint.task in MEASURES[name].tasks]
        raise UserError(
            f"measure.task is {task}, which does not fit {checkpoint.task}: "
            f"take {' or '.join(fitting)}."
        )
    _read(MEASURES[task], Data(data, settings.limit, fields=settings.fields), checkpoint.config)


def _refuse_length(settings: MeasureSettings, facts: Facts) -> None:
    checkpoint = facts.checkpoint
    longest = max_positions(checkpoint.config)
    if checkpoint.gguf is None:  # what the tokenizer allows may be less
        longest = Bundle(checkpoint.folder, {"max_length": longest}).max_length or longest
    generates = TASKS[checkpoint.task].generates
    generated = BenchSettings().decode_steps + 1 if generates else 0
    if settings.tokens + generated > longest:
        beside = f" and {generated} more are generated" if generated else ""
        raise UserError(
            f"measure.tokens is {settings.tokens}{beside}, and {checkpoint.name} takes at "
            f"most {longest} tokens."
        )


def _read(measure: Measure, data: Data, config: Mapping[str, Any]) -> None:
    """Read what a measure would read, and refuse what it would."""
    if measure.reads:
        load_function(measure.reads)(data)
        return
    if not measure.fields:
        data.documents()
        return
    if measure.rather:
        field, other = measure.rather
        measure = MEASURES[other] if field in data.rows([])[0] else measure
    rows = data.rows(list(measure.fields), measure.further)
    for row in rows:
        for field, read in measure.fields.items():
            read(row, field, data.place)
    if measure.check:
        load_function(measure.check)(rows, config, data.place)


def _would(settings: MeasureSettings, facts: Facts) -> list[str]:
    return [
        f"beside the original: {settings.tokens} tokens, batch {settings.batch}, "
        f"{settings.threads} thread(s)"
    ]


def _reads(settings: MeasureSettings, context: Context) -> list[str]:
    """Digests of the data, of the original's export and, since speed depends on it, of the
    processor."""
    data = [data_digest(Path(settings.data))] if settings.data else []
    return [context.folders["original"].name, processor_digest(), *data]


MEASURE = Stage(
    "measure",
    "edgeprune.pipeline.measure.stage:run",
    Measured,
    settings=MeasureSettings,
    default=MeasureSettings,
    description="Speed, memory and quality.",
    gives=None,
    always=True,
    varies=True,
    compares=True,
    refuse=_refuse,
    would=_would,
    reads=_reads,
    asks=lambda task: [task.runtime],
)
