"""What a binarization method is."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, ClassVar, Literal, Protocol, Self, TypeAlias

from bidiffsr.binary.packing import Floats
from bidiffsr.binary.parameters import Parameter

if TYPE_CHECKING:
    from bidiffsr.binary.layers import ConvBlock

FloatHelp: TypeAlias = Literal["none", "pointwise", "grouped"]
"""The full-precision convolution beside each 3×3 one that is binarized (`helped.py`)."""


class MethodOptions(Protocol):
    """What a method may ask of a network's configuration, under its names there."""

    method: str
    time_groups: int
    timestep_aware_redistribution: bool
    timestep_aware_activation: bool
    identity_shortcut: bool
    weight_gain: bool
    float_help: FloatHelp


class ConvMethod(ABC):
    """The convolutions of a network, all of one kind: on paper, and as PyTorch modules.

    Importing a method loads no PyTorch, and ``conv`` alone does: files are read without it.
    """

    epilogue: ClassVar[str | None] = None
    """What the engine calls that which follows the convolution; None: it cannot run the method."""
    bias: ClassVar[str | None] = None
    """The parameter (..., C_out) that begins as the bias where training begins from a
    full-precision network, if any."""

    scale_follows: ClassVar[bool] = True
    """Whether weights times a factor give scales times it, which widening a network builds on."""
    activation_bits: ClassVar[int] = 1
    """Bits of an activation behind its slot; a product of bits is counted for each of them."""

    @classmethod
    @abstractmethod
    def of(cls, options: MethodOptions) -> Self:
        """The method as a network's configuration has it."""

    @abstractmethod
    def parameters(self, channels_in: int, channels_out: int, kernel: int) -> dict[str, Parameter]:
        """The parameters of a block that ``conv`` builds, under its names and in its order.

        The one that may be binarized is "conv.weight".
        """

    @abstractmethod
    def conv(self, channels_in: int, channels_out: int, kernel: int, stride: int = 1) -> ConvBlock:
        """A "same" convolution block of this method; takes PyTorch."""

    def constants(self, channels_in: int, channels_out: int) -> dict[str, Floats]:
        """What the engine's ``epilogue`` reads of a block and the method does not learn.

        By the names that they would have in ``parameters``; files hold none of them.
        """
        return {}
