"""The load stage: what the user named, as a float32 model in a folder of the build's own."""

from pathlib import Path

from edgeprune.compress.context import Context
from edgeprune.compress.load.record import Loaded
from edgeprune.model.importing import import_checkpoint, import_tokenizer
from edgeprune.model.store import save_model


def run(context: Context, source: Path, target: Path, settings: None) -> Loaded:
    """Read the model that the user named; write it in float32 with its tokenizer."""
    model = import_checkpoint(context.checkpoint)
    import_tokenizer(context.checkpoint, target)
    save_model(model, target)
    return Loaded(
        parameters=sum(parameter.numel() for parameter in model.module.parameters()),
        heads=[len(heads) for heads in model.heads],
        channels=[len(channels) for channels in model.channels],
    )
