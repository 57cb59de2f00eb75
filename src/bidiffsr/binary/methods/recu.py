"""ReCU (Xu et al. 2021)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Self

from bidiffsr.binary.methods.bare import BareConv
from bidiffsr.binary.methods.base import MethodOptions
from bidiffsr.binary.methods.bnn import one
from bidiffsr.binary.methods.dorefa import straight_through
from bidiffsr.binary.packing import Centred, Packing

if TYPE_CHECKING:
    from torch import nn

    from bidiffsr.binary.layers import ConvBlock


@dataclass(frozen=True)
class ReCU(BareConv):
    """sign ⊛ sign(rectified w), under a learned scale → + identity.

    Forward:  y = alpha_o conv(sign(x), sign(ReCU(v))), alpha_o learned, sign(0) = +1,
              v = 2√2 (w - mean w_o) / std w_o, ReCU(v) = max(min(v, Q(tau)), Q(1 - tau)),
              Q(tau) = -b ln(2 - 2 tau) = -Q(1 - tau), b = mean |v| of the layer (the quantiles
              of a Laplace distribution)
    Gradient: of the activation's sign 2 + 2x on [-1, 0), 2 - 2x on [0, 1), 0 elsewhere; of the
              weight's by v 1 within the quantiles, 0 beyond, and by w through the standardization;
              tau grows from 0.85 to 0.99 as e^(i / N) does, iteration i of N
    Source:   ReCU: Reviving the Dead Weights in Binary Neural Networks, ICCV 2021, section 3

    Weights beyond the quantiles hardly ever change their sign (dead weights); drawn back to them,
    they do. The original divides activations by their deviation before the sign, adds 1e-5 to the
    variance of weights, and has a batch norm behind the convolution, so its scale may begin
    anywhere. Here a norm comes before the convolution, and scales begin at 1 / √(C_in·k·k). They
    are the block's gain, which others have with ``weight_gain`` only.
    """

    epilogue: ClassVar[str | None] = "recu"
    scale_follows: ClassVar[bool] = False
    packing: ClassVar[Packing] = Centred()

    @classmethod
    def of(cls, options: MethodOptions) -> Self:
        """See ``ConvMethod.of``."""
        return cls(identity_shortcut=options.identity_shortcut, gain=True)

    def binarizers(self) -> tuple[nn.Module, nn.Module]:
        """See ``BareConv.binarizers``."""
        from bidiffsr.binary.quantizers import ActivationSign, RectifiedWeightSign, WeightSign

        return ActivationSign(), RectifiedWeightSign(WeightSign(one, straight_through))

    def conv(self, channels_in: int, channels_out: int, kernel: int, stride: int = 1) -> ConvBlock:
        """See ``ConvMethod.conv``."""
        from torch import nn

        block = super().conv(channels_in, channels_out, kernel, stride)
        assert block.gain is not None
        nn.init.constant_(block.gain, (channels_in * kernel**2) ** -0.5)
        return block
