"""Any method with a cheap full-precision convolution beside its 3×3 ones."""

from __future__ import annotations

from dataclasses import dataclass
from math import gcd
from typing import TYPE_CHECKING, ClassVar, Self

from bidiffsr.binary.methods.base import ConvMethod, FloatHelp, MethodOptions
from bidiffsr.binary.parameters import Parameter, Role

if TYPE_CHECKING:
    from bidiffsr.binary.layers import ConvBlock

_GROUPS = 8


@dataclass(frozen=True)
class Helped(ConvMethod):
    """The result of each 3×3 block, plus an unbiased convolution of the block's real input.

    1×1 (``pointwise``), a ninth of the products of a full 3×3 one; or 3×3 in eight groups, or as
    many of them as divide the channels (``grouped``). Blocks of other sizes stay as they are.
    """

    # Widening copies neighbouring channels, which a grouped convolution does not see together.
    scale_follows: ClassVar[bool] = False

    method: ConvMethod
    help: FloatHelp

    @classmethod
    def of(cls, options: MethodOptions) -> Self:
        """See ``ConvMethod.of``."""
        from bidiffsr.binary.methods import METHODS

        return cls(METHODS[options.method].of(options), options.float_help)

    def __post_init__(self) -> None:
        # Class variables of any other method; this one has them from the method that it helps.
        for name in ("bias", "activation_bits"):
            object.__setattr__(self, name, getattr(self.method, name))

    def parameters(self, channels_in: int, channels_out: int, kernel: int) -> dict[str, Parameter]:
        """See ``ConvMethod.parameters``; the last is "help.weight"."""
        own = self.method.parameters(channels_in, channels_out, kernel)
        if kernel != 3:
            return own
        size, groups = self._shape(channels_in, channels_out)
        shape = (channels_out, channels_in // groups, size, size)
        return own | {"help.weight": Parameter(shape, Role.WEIGHT)}

    def conv(self, channels_in: int, channels_out: int, kernel: int, stride: int = 1) -> ConvBlock:
        """See ``ConvMethod.conv``."""
        from torch import nn

        block = self.method.conv(channels_in, channels_out, kernel, stride)
        if kernel == 3:
            size, groups = self._shape(channels_in, channels_out)
            block.help = nn.Conv2d(
                channels_in, channels_out, size, stride, size // 2, groups=groups, bias=False
            )
        return block

    def _shape(self, channels_in: int, channels_out: int) -> tuple[int, int]:
        """Kernel size and groups of the convolution beside."""
        return (1, 1) if self.help == "pointwise" else (3, gcd(channels_in, channels_out, _GROUPS))
