"""The row of the measure stage, which puts the bundle beside the original."""

from pathlib import Path

from edgeprune.base.errors import UserError
from edgeprune.compress.context import Context
from edgeprune.compress.facts import Facts
from edgeprune.compress.stage import Stage
from edgeprune.measure.bench.settings import BenchSettings
from edgeprune.measure.evaluate.choice import read_items
from edgeprune.measure.evaluate.data import Data
from edgeprune.measure.evaluate.measures import MEASURES
from edgeprune.measure.record import Measured
from edgeprune.model.families import max_positions
from edgeprune.model.tasks import TASKS
from edgeprune.pipeline.keys import data_digest, processor_digest
from edgeprune.pipeline.measure.settings import OWN_TASKS, MeasureSettings
from edgeprune.runtime.bundle import Bundle
from edgeprune.text.files import Row
from edgeprune.text.labels import label_names, label_numbers


def _refuse(settings: MeasureSettings, facts: Facts) -> None:
    _refuse_length(settings, facts)
    checkpoint, task, data = facts.checkpoint, settings.task, settings.data
    if task is None:
        return
    if data is None:
        raise UserError("measure.task needs measure.data, the file that it reads.")
    if MEASURES[task].per_token and "vocabulary" in facts.settings:
        raise UserError(
            f"measure.task is {task}, which is not comparable once `vocabulary` trims the "
            "tokenizer: leave one of them out (kl is measured anyway)."
        )
    if not Path(data).exists():
        raise UserError(f"measure.data: there is no file {data}.")
    if checkpoint.task not in MEASURES[task].tasks:
        fitting = [name for name in OWN_TASKS if checkpoint.task in MEASURES[name].tasks]
        raise UserError(
            f"measure.task is {task}, which does not fit {checkpoint.task}: "
            f"take {' or '.join(fitting)}."
        )
    rows = _read(task, Data(data, settings.limit, fields=settings.fields))
    if task == "classification":
        names = label_names(checkpoint.config)
        label_numbers([row["label"] for row in rows], names, data)


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


def _read(task: str, data: Data) -> list[Row]:
    """Read what a measure would read; its rows, where it reads rows."""
    fields = MEASURES[task].fields
    if not fields:
        data.documents()
        return []
    if task == "generation" and "choices" in data.rows([])[0]:
        task, fields = "choice", MEASURES["choice"].fields
    rows = data.rows(list(fields))
    for row in rows:
        for field, read in fields.items():
            read(row, field, data.place)
    if task == "choice":
        read_items(rows, data.place)
    return rows


def _would(settings: MeasureSettings, facts: Facts) -> list[str]:
    return [
        f"beside the original: {settings.tokens} tokens, batch {settings.batch}, "
        f"{settings.threads} thread(s)"
    ]


def _reads(settings: MeasureSettings, context: Context) -> list[str]:
    """What is timed also depends on the processor, and all of it on the original's export."""
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
    refuse=_refuse,
    would=_would,
    reads=_reads,
    asks=lambda task: [task.runtime],
)
