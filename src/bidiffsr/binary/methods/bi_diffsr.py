"""BI-DiffSR (Chen et al. 2024)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Self

from bidiffsr.binary.methods.base import ConvMethod, MethodOptions
from bidiffsr.binary.packing import MeanMagnitude
from bidiffsr.binary.parameters import Parameter, Role

if TYPE_CHECKING:
    from bidiffsr.binary.layers import ConvBlock


@dataclass(frozen=True)
class BiDiffSR(ConvMethod):
    """TaR → sign ⊛ alpha·sign(w) → TaA → + identity (docs/method.md, "BI-Conv").

    Where the shape changes, no identity shortcut is possible and none is added.
    """

    epilogue: ClassVar[str | None] = "bi-diffsr"
    bias: ClassVar[str | None] = "activation.bias_in"

    shift_groups: int
    activation_groups: int
    identity_shortcut: bool = True
    gain: bool = False

    @classmethod
    def of(cls, options: MethodOptions) -> Self:
        """See ``ConvMethod.of``."""
        groups = options.time_groups
        return cls(
            shift_groups=groups if options.timestep_aware_redistribution else 1,
            activation_groups=groups if options.timestep_aware_activation else 1,
            identity_shortcut=options.identity_shortcut,
            gain=options.weight_gain,
        )

    def parameters(self, channels_in: int, channels_out: int, kernel: int) -> dict[str, Parameter]:
        """See ``ConvMethod.parameters``."""
        weight = (channels_out, channels_in, kernel, kernel)
        after = Parameter((self.activation_groups, channels_out), Role.VECTOR)
        gain = {"gain": Parameter((channels_out,), Role.VECTOR)} if self.gain else {}
        return gain | {
            "shift.bias": Parameter((self.shift_groups, channels_in), Role.THRESHOLD),
            "conv.weight": Parameter(weight, Role.WEIGHT, MeanMagnitude()),
            "activation.bias_in": after,
            "activation.slope": after,
            "activation.bias_out": after,
        }

    def conv(self, channels_in: int, channels_out: int, kernel: int, stride: int = 1) -> ConvBlock:
        """See ``ConvMethod.conv``."""
        from bidiffsr.binary.layers import BinaryConv2d, ConvBlock, TimestepRPReLU, TimestepShift
        from bidiffsr.binary.quantizers import ActivationSign, ScaledWeightSign

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
