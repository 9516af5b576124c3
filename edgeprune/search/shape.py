"""The shape of a compressed model: which layers are left, and how wide each is."""

from dataclasses import dataclass
from itertools import pairwise


@dataclass(frozen=True)
class Shape:
    """Layers that are kept, and the heads and channels of each.

    It says how many of each are left, not which; it can be a key, and is compared by value.

    Example:
        >>> Shape(layers=(0, 2), heads=(4, 12), channels=(448, 1536)).layers
        (0, 2)

    Raises:
        ValueError: the three differ in length, nothing is kept, or the layers do not rise.
    """

    layers: tuple[int, ...]
    """The numbers that the kept layers have in the original model, rising."""
    heads: tuple[int, ...]
    """The query heads of each kept layer."""
    channels: tuple[int, ...]
    """The feed-forward channels of each kept layer."""

    def __post_init__(self) -> None:
        if not len(self.layers) == len(self.heads) == len(self.channels):
            raise ValueError("a shape needs heads and channels for each of its layers")
        if not self.layers or min(*self.heads, *self.channels) < 1:
            raise ValueError("a shape keeps a layer, and a head and a channel in each")
        if any(after <= before for before, after in pairwise(self.layers)):
            raise ValueError("a shape's layers rise")
