"""The output of a search: the best bundle, the record and the page."""

import shutil
from collections.abc import Sequence
from pathlib import Path

from edgeprune.measure.bench.machine import machine_facts
from edgeprune.search.goals import missed
from edgeprune.search.page import write_page
from edgeprune.search.prepare import BEST, Prepared
from edgeprune.search.record import Brief, Found, SearchRecord
from edgeprune.search.settings import Wish


def write(
    prepared: Prepared,
    models: Sequence[Found],
    trials: Sequence[Brief],
    table_error: float,
    seconds: float,
    finished: bool,
    hours_over: bool = False,
) -> SearchRecord:
    """Write the models that there are, in place of an earlier state."""
    best, verdict = best_of(models, prepared.wish)
    record = SearchRecord(
        model=prepared.checkpoint.name,
        text=prepared.context.text.line,
        wish=prepared.wish.model_dump(mode="json"),
        settings=prepared.settings.model_dump(mode="json"),
        machine=machine_facts().to_json(),
        table_error=table_error,
        models=tuple(models),
        trials=tuple(trials),
        best=best,
        verdict=tuple(verdict),
        seconds=seconds,
        finished=finished,
        hours_over=hours_over,
    )
    record.write(prepared.output / "search.json")
    write_page(record, prepared.output)
    if best is not None:
        _copy(prepared.output / "models" / best / "bundle", prepared.output / BEST)
    return record


def best_of(models: Sequence[Found], wish: Wish) -> tuple[str | None, list[str]]:
    """The model that answers the wish, and sentences on what it misses; of a front none."""
    if not wish.of_one:
        return None, []
    keeping = [each for each in models if not missed(each, wish)]
    if keeping:
        if wish.max_drop is not None:
            best = max(keeping, key=lambda each: each.speedup.value)
        else:
            best = min(keeping, key=lambda each: each.loss)
        return best.name, []
    nearest = min(models, key=lambda each: len(missed(each, wish)))
    return nearest.name, missed(nearest, wish)


def _copy(bundle: Path, target: Path) -> None:
    """Put a bundle's copy in place, whole or not at all."""
    aside = target.with_name(f".{target.name}")
    shutil.rmtree(aside, ignore_errors=True)
    shutil.copytree(bundle, aside)
    shutil.rmtree(target, ignore_errors=True)
    aside.rename(target)
