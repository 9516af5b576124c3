"""A process that runs a model in PyTorch itself: `python -m edgeprune.measure.bench.torch_worker`.

It speaks the protocol of protocol.py and needs the build install. Its load is also told "model": a
folder, package:NAME or hub id. Weights are float32, attention is transformers' choice.
"""

import importlib.metadata
from typing import Any

from edgeprune.measure.bench.protocol import Message, serve, stay_on, timed


class TorchWorker:
    """The loaded model, and one method a command. It imports torch when it loads."""

    def load(self, request: Message) -> Message:
        import torch

        from edgeprune.model.checkpoint import open_checkpoint
        from edgeprune.model.importing import import_checkpoint

        stay_on(request["cores"])
        torch.set_num_threads(request["threads"])

        def load() -> None:
            model = import_checkpoint(open_checkpoint(request["model"]))
            self.module, self.vocabulary = model.module, model.config["vocab_size"]

        seconds = timed(load)
        self.torch = torch
        self.random = torch.Generator().manual_seed(request["seed"])
        return seconds

    def encoder(self, request: Message) -> Message:
        ids = self._ids(request["batch"], request["tokens"])
        mask = self.torch.ones_like(ids)
        with self.torch.inference_mode():
            return timed(lambda: self.module(input_ids=ids, attention_mask=mask), request["calls"])

    def prompt(self, request: Message) -> Message:
        ids = self._ids(request["batch"], request["tokens"])

        def call() -> None:
            self.module(input_ids=ids, use_cache=True).logits[:, -1].argmax(dim=-1)

        with self.torch.inference_mode():
            return timed(call, request["calls"])

    def decode(self, request: Message) -> Message:
        ids = self._ids(request["batch"], request["steps"] + 1)
        step = iter(ids.split(1, dim=1))
        with self.torch.inference_mode():
            context = self._ids(request["batch"], request["context"])
            # The cache grows in place.
            cache = self.module(input_ids=context, use_cache=True).cache

            def call() -> None:
                self.module(input_ids=next(step), cache=cache, use_cache=True)

            call()
            return timed(call, request["steps"])

    def _ids(self, batch: int, tokens: int) -> Any:
        return self.torch.randint(0, self.vocabulary, (batch, tokens), generator=self.random)


def main() -> None:
    worker = TorchWorker()
    commands = {
        "load": worker.load,
        "encoder": worker.encoder,
        "prompt": worker.prompt,
        "decode": worker.decode,
    }
    serve(f"PyTorch {importlib.metadata.version('torch')}", commands)


if __name__ == "__main__":
    main()
