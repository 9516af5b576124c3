"""Load and save torch models, whose layers may differ in size."""

import functools
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from edgeprune.model.anatomy import Anatomy, Attention, describe
from edgeprune.model.families import find_family
from edgeprune.model.forward import Inputs, tensors
from edgeprune.model.pooling import Pooling, read_pooling
from edgeprune.model.projection import Step, read_steps
from edgeprune.model.streamed import StreamedWeights
from edgeprune.model.tasks import task_of
from edgeprune.text.prompts import Library, read_library


@dataclass
class Model:
    """A torch model in float32, in evaluation mode, with what it is made of.

    `layers` names which of the original layers are left, in order; `heads`, per layer that is left,
    which of its heads; `channels`, per feed-forward (one a layer, or its experts), which of its
    channels.
    """

    module: nn.Module
    config: dict[str, Any]
    folder: Path
    heads: list[list[int]]
    channels: list[list[int]]
    layers: list[int]
    streamed: StreamedWeights | None = None
    """The weights of its linears, read when they are needed, where it is too large for memory."""

    def opened(self, path: str) -> AbstractContextManager[None]:
        """The weights of the modules at and below a path, in memory and to be changed, for a
        `with`; of a model that is not streamed they always are."""
        return self.streamed.opened(path) if self.streamed else nullcontext()

    @property
    def anatomy(self) -> Anatomy:
        """The model's parts and sizes as they are now, read off its tensors."""
        shapes = {name: tuple(tensor.shape) for name, tensor in self.module.state_dict().items()}
        return describe(self.config, shapes)

    @property
    def task(self) -> str:
        """The name of what the model is for, one of TASKS."""
        return task_of(self.config).name

    @functools.cached_property
    def pooling(self) -> Pooling:
        """The pooling of a sentence encoder's tokens; the mean where its folder does not say."""
        return read_pooling(self.folder) or Pooling()

    @functools.cached_property
    def steps(self) -> tuple[Step, ...]:
        """The modules that a sentence encoder's pooled vector goes through."""
        return read_steps(self.folder)

    @functools.cached_property
    def library(self) -> Library:
        """A sentence encoder's prompts, width and similarity."""
        return read_library(self.folder)

    @property
    def has_cache(self) -> bool:
        """Whether a call keeps the keys and values of its tokens, unless it is told not to."""
        return find_family(str(self.config.get("model_type"))).has_cache

    @functools.cached_property
    def reads_token_types(self) -> bool:
        """Whether it is told to which of two texts a token belongs."""
        return self.anatomy.reads_token_types

    def run(self, batch: Inputs, **options: Any) -> Any:
        """The module's output for a batch; where there is a cache, it is left empty.

        Gradients are as the caller's context has them.
        """
        inputs = tensors(batch)
        if not self.reads_token_types:
            inputs.pop("token_type_ids", None)
        cache = {"use_cache": False} if self.has_cache else {}
        return self.module(**inputs, **cache, **options)

    def linear(self, name: str) -> nn.Linear:
        """A linear by its full module name."""
        return self.module.get_submodule(name)  # type: ignore[return-value]

    def block_modules(self) -> list[nn.Module]:
        """The modules of the blocks, in the order of the data."""
        return [self.module.get_submodule(block.name) for block in self.anatomy.blocks]


def wrap(module: nn.Module, config: dict[str, Any], folder: Path) -> Model:
    nn.Module.float(module)  # transformers' own refuses where a file's weights were quantized
    model = Model(module.eval(), config, folder, [], [], [])
    for block in model.anatomy.blocks:
        model.layers.append(block.index)
        mixer = block.mixer
        heads = mixer.num_heads if isinstance(mixer, Attention) else 0
        model.heads.append(list(range(heads)))
        model.channels += [list(range(part.channels)) for part in block.feed_forwards]
    return model
