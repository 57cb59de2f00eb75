"""What the parameters of a network are: shapes and roles; no PyTorch."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from bidiffsr.binary.packing import Packing


class Role(Enum):
    """What a parameter does, and so which of its axes counts which channels."""

    WEIGHT = "weight"
    """(C_out, C_in) or (C_out, C_in, k, k), fewer of C_in where convolved in groups: what is summed
    over the input's channels."""
    THRESHOLD = "threshold"
    """(..., C_in): added to the input before its sign, which it decides; it is never rounded."""
    VECTOR = "vector"
    """(..., C_out): what is done to each channel of the output."""


@dataclass(frozen=True)
class Parameter:
    """A parameter of a layer."""

    shape: tuple[int, ...]
    role: Role
    packing: Packing | None = None
    """How a binarized weight (C_out, C_in, k, k) becomes bits; None: it is kept as floats."""

    @property
    def one_bit(self) -> bool:
        """Whether only signs and one magnitude per output channel of it count."""
        return self.packing is not None
