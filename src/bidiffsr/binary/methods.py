"""What fills the slots of a convolution: one class per binarization method."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from bidiffsr.binary.layers import BinaryConv2d, ConvBlock, TimestepRPReLU, TimestepShift
from bidiffsr.binary.quantizers import ActivationSign, ScaledWeightSign
from bidiffsr.config import BiDiffSRConfig


class ConvMethod(Protocol):
    """Builds the convolutions of a network, all of one kind."""

    def conv(self, channels_in: int, channels_out: int, kernel: int, stride: int = 1) -> ConvBlock:
        """A "same" convolution block of this method."""
        ...


class FullPrecision:
    """Plain biased convolutions: what the two shallowest levels going up have."""

    def conv(self, channels_in: int, channels_out: int, kernel: int, stride: int = 1) -> ConvBlock:
        """See ``ConvMethod.conv``."""
        return ConvBlock(BinaryConv2d(channels_in, channels_out, kernel, stride=stride))


@dataclass(frozen=True)
class BiDiffSR:
    """TaR → sign ⊛ alpha·sign(w) → TaA → + identity (docs/method.md, "BI-Conv").

    Where the shape changes, no identity shortcut is possible and none is added.
    """

    shift_groups: int
    activation_groups: int
    identity_shortcut: bool = True
    gain: bool = False

    def conv(self, channels_in: int, channels_out: int, kernel: int, stride: int = 1) -> ConvBlock:
        """See ``ConvMethod.conv``."""
        conv = BinaryConv2d(
            channels_in,
            channels_out,
            kernel,
            stride=stride,
            activation=ActivationSign(),
            weight=ScaledWeightSign(),
            bias=False,
        )
        return ConvBlock(
            conv,
            shift=TimestepShift(channels_in, self.shift_groups),
            gain=self.gain,
            activation=TimestepRPReLU(channels_out, self.activation_groups),
            shortcut=self.identity_shortcut and channels_in == channels_out and stride == 1,
        )


def method_for(config: BiDiffSRConfig) -> ConvMethod:
    """The method that ``config`` names, for the layers it binarizes."""
    if config.method == "full-precision":
        return FullPrecision()
    groups = config.time_groups
    return BiDiffSR(
        shift_groups=groups if config.timestep_aware_redistribution else 1,
        activation_groups=groups if config.timestep_aware_activation else 1,
        identity_shortcut=config.identity_shortcut,
        gain=config.weight_gain,
    )
