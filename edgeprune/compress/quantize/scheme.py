"""The integers that a matrix becomes: their bits, and what shares a scale. No torch here."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Scheme:
    """Bits, groups and symmetry of the integers that weights become."""

    bits: int = 8
    group: int | None = None
    """Columns of a row that share a scale. None: the whole row, with signed codes in [-q, q],
    q = 2^(bits-1) - 1; groups have unsigned codes in [0, 2^bits - 1]."""
    symmetric: bool = True
    """Groups only: the zero point is the middle, 2^(bits-1), and not stored."""
    multiples: int | None = None
    """Symmetric groups only: the scales of a row are whole multiples, of up to this and either
    sign, of one number, so that a byte stores each."""

    @property
    def lowest(self) -> int:
        """The least code."""
        return 1 - 2 ** (self.bits - 1) if self.group is None else 0

    @property
    def highest(self) -> int:
        """The largest code."""
        return 2 ** (self.bits - 1) - 1 if self.group is None else 2**self.bits - 1

    @property
    def middle(self) -> int:
        """The zero point of what is symmetric."""
        return 0 if self.group is None else 2 ** (self.bits - 1)

    def bytes(self, rows: int, columns: int) -> int:
        """Bytes of a matrix's codes, float32 scales, multiples and zero points.

        Codes of 4 bits are packed, and a short last group is filled up, as MatMulNBits has it.
        """
        if self.group is None:
            return rows * (columns + 4)
        groups = -(-columns // self.group)
        if self.multiples is not None:
            return rows * (groups * (self.group * self.bits // 8 + 1) + 4)
        zeros = 0 if self.symmetric else -(-groups * self.bits // 8)
        return rows * (groups * (self.group * self.bits // 8 + 4) + zeros)
