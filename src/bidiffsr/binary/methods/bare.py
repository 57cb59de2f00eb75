"""What methods have in common that learn nothing but the weight."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Self

import numpy as np

from bidiffsr.binary.methods.base import ConvMethod, MethodOptions
from bidiffsr.binary.packing import Floats, Packing
from bidiffsr.binary.parameters import Parameter, Role

if TYPE_CHECKING:
    from torch import nn

    from bidiffsr.binary.layers import ConvBlock


@dataclass(frozen=True)
class BareConv(ConvMethod):
    """Both slots filled and the identity added: no threshold, no bias, no RPReLU.

    The gain and the shortcut are the network's options, which hold for any method; where the shape
    changes, no shortcut is possible.
    """

    packing: ClassVar[Packing]
    """Of the weights that the second of ``binarizers`` makes."""

    identity_shortcut: bool = True
    gain: bool = False

    @classmethod
    def of(cls, options: MethodOptions) -> Self:
        """See ``ConvMethod.of``."""
        return cls(identity_shortcut=options.identity_shortcut, gain=options.weight_gain)

    @abstractmethod
    def binarizers(self) -> tuple[nn.Module, nn.Module]:
        """The activation's and the weight's, for the slots of `BinaryConv2d`; takes PyTorch."""

    def parameters(self, channels_in: int, channels_out: int, kernel: int) -> dict[str, Parameter]:
        """See ``ConvMethod.parameters``."""
        weight = (channels_out, channels_in, kernel, kernel)
        gain = {"gain": Parameter((channels_out,), Role.VECTOR)} if self.gain else {}
        return gain | {"conv.weight": Parameter(weight, Role.WEIGHT, self.packing)}

    def conv(self, channels_in: int, channels_out: int, kernel: int, stride: int = 1) -> ConvBlock:
        """See ``ConvMethod.conv``."""
        from bidiffsr.binary.layers import BinaryConv2d, ConvBlock

        activation, weight = self.binarizers()
        conv = BinaryConv2d(
            channels_in,
            channels_out,
            kernel,
            stride=stride,
            activation=activation,
            weight=weight,
            bias=False,
        )
        shortcut = self.identity_shortcut and channels_in == channels_out and stride == 1
        return ConvBlock(conv, gain=self.gain, shortcut=shortcut)

    def constants(self, channels_in: int, channels_out: int) -> dict[str, Floats]:
        """See ``ConvMethod.constants``: a threshold of 0 and an RPReLU that changes nothing."""
        if self.epilogue is None:
            return {}
        zeros = np.zeros((1, channels_out), np.float32)
        return {
            "shift.bias": np.zeros((1, channels_in), np.float32),
            "activation.bias_in": zeros,
            "activation.slope": np.ones_like(zeros),
            "activation.bias_out": zeros,
        }
