"""No binarization."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Self

from bidiffsr.binary.methods.base import ConvMethod, MethodOptions
from bidiffsr.binary.parameters import Parameter, Role

if TYPE_CHECKING:
    from bidiffsr.binary.layers import ConvBlock


@dataclass(frozen=True)
class FullPrecision(ConvMethod):
    """Plain biased convolutions: what the two shallowest levels going up have."""

    epilogue: ClassVar[str | None] = "full-precision"
    bias: ClassVar[str | None] = "conv.bias"

    @classmethod
    def of(cls, options: MethodOptions) -> Self:
        """See ``ConvMethod.of``."""
        return cls()

    def parameters(self, channels_in: int, channels_out: int, kernel: int) -> dict[str, Parameter]:
        """See ``ConvMethod.parameters``."""
        return {
            "conv.weight": Parameter((channels_out, channels_in, kernel, kernel), Role.WEIGHT),
            "conv.bias": Parameter((channels_out,), Role.VECTOR),
        }

    def conv(self, channels_in: int, channels_out: int, kernel: int, stride: int = 1) -> ConvBlock:
        """See ``ConvMethod.conv``."""
        from bidiffsr.binary.layers import BinaryConv2d, ConvBlock

        return ConvBlock(BinaryConv2d(channels_in, channels_out, kernel, stride=stride))
