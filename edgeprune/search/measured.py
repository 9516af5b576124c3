"""Times and losses, which a search measures before it chooses, kept for the next."""

from edgeprune.base.progress import say
from edgeprune.pipeline.keys import code_digest, digest
from edgeprune.search.levels import measure_losses
from edgeprune.search.losses import Losses
from edgeprune.search.prepare import MARK, Prepared
from edgeprune.search.times.measure import measure_blocks, model_name
from edgeprune.search.times.settings import BlockSettings
from edgeprune.search.whole import Whole
from edgeprune.targets.block_times import BlockTimes, kept


def measured_times(prepared: Prepared) -> BlockTimes:
    """The times of the model's blocks on this machine: those that are kept, or measured now."""
    settings, checkpoint = prepared.settings, prepared.checkpoint
    name = model_name(checkpoint.anatomy)
    work = prepared.work
    found = kept(name, prepared.form, work, settings.tokens, settings.batch, settings.threads)
    if found is not None:
        say("[search] times of blocks: kept from an earlier measurement")
        return found
    say("[search] times of blocks")
    blocks = BlockSettings(
        form=prepared.form,
        work=work,
        tokens=settings.tokens,
        batch=settings.batch,
        threads=settings.threads,
    )
    table = measure_blocks(checkpoint, blocks, prepared.context.target)
    table.keep()
    return table


def measured_losses(prepared: Prepared, whole: Whole) -> Losses:
    """The losses of the model's levels and layers on the text: those that are kept, or measured
    now.

    Raises:
        UserError: the kept file is damaged.
    """
    settings = prepared.settings
    key = digest(
        prepared.common,
        settings.samples,
        settings.judged,
        code_digest(
            ["edgeprune.search.levels:measure_losses", "edgeprune.search.blocks:blocks_of"]
        ),
    )
    file = prepared.output / MARK / f"losses-{key[:12]}.json"
    if file.is_file():
        return Losses.read(file, "delete it, and they are measured again")
    first = whole.model.anatomy.family.unnormed_first
    found = measure_losses(whole.model, whole.blocks, whole.texts.judged, first)
    found.write(file)
    return found
