"""A graph written from a model's folder where its family is known well enough, without torch."""

from pathlib import Path

from edgeprune.base.files import read_json
from edgeprune.export.emit.decoder import emit_decoder
from edgeprune.export.emit.encoder import emit_encoder, writes_encoder
from edgeprune.export.emit.weights import Weights
from edgeprune.export.graph import Graph
from edgeprune.model.anatomy import Anatomy
from edgeprune.model.assets import SIZES
from edgeprune.model.checkpoint import open_checkpoint
from edgeprune.model.tasks import TASKS


def emitted(folder: Path, plain_sums: bool = False) -> Graph | None:
    """The float32 graph of the model that a stage left in `folder`, in the form that the rewriting
    goes on with; None where it has to be traced.

    Args:
        plain_sums: write the additions that a norm reads in the form that the runtime does not
            fuse with it, for a target to which that does harm.
    """
    checkpoint = open_checkpoint(str(folder))
    anatomy, task = checkpoint.anatomy, TASKS[checkpoint.task]
    embeds = task.head is None and anatomy.family.decoder is not None
    if anatomy.generates or anatomy.reads_both_ways or embeds:
        weights = checkpoint.tensors(Weights)
        return emit_decoder(anatomy, checkpoint.config, weights, task, plain_sums)
    function = anatomy.family.encoder
    if function is None or not writes_encoder(function, checkpoint.config, task):
        return None
    return emit_encoder(
        anatomy,
        function,
        checkpoint.config,
        checkpoint.tensors(Weights),
        task,
        kept_heads=_kept_heads(folder, anatomy),
        plain_sums=plain_sums,
    )


def _kept_heads(folder: Path, anatomy: Anatomy) -> list[list[int]]:
    """Of every layer which of the original heads are left; all where no stage wrote the folder."""
    if (folder / SIZES).exists():
        heads: list[list[int]] = read_json(folder / SIZES)["heads"]
        return heads
    return [list(range(block.attention.num_heads)) for block in anatomy.blocks]
