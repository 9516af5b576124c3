"""The load stage: what the user named, as a float32 model in a folder of the build's own, or, of a
streamed model, as a list of where its tensors lie."""

from pathlib import Path

from edgeprune.compress.context import Context
from edgeprune.compress.load.record import Loaded
from edgeprune.compress.load.settings import LoadSettings
from edgeprune.model.importing import import_checkpoint, import_tokenizer, stream_checkpoint
from edgeprune.model.store import save_model


def run(context: Context, source: Path, target: Path, settings: LoadSettings) -> Loaded:
    """Read the model that the user named; write it in float32 with its tokenizer."""
    read = stream_checkpoint if context.streamed else import_checkpoint
    model = read(context.checkpoint)
    import_tokenizer(context.checkpoint, target)
    save_model(model, target)
    return Loaded(
        parameters=sum(parameter.numel() for parameter in model.module.parameters()),
        heads=[len(heads) for heads in model.heads],
        channels=[len(channels) for channels in model.channels],
        streamed=context.streamed,
    )
