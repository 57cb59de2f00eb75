"""XNOR-Net (Rastegari et al. 2016)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from bidiffsr.binary.methods.bare import BareConv
from bidiffsr.binary.methods.bnn import clipped, clipped_weight
from bidiffsr.binary.packing import ChannelMean, Packing

if TYPE_CHECKING:
    from torch import Tensor, nn

    from bidiffsr.binary.layers import ConvBlock


def mean_of_each(weight: Tensor) -> Tensor:
    """alpha = mean |w_o| of each output channel, (C_out, 1, 1, 1): equation 6."""
    return weight.abs().mean(dim=(1, 2, 3), keepdim=True)


def through_both(weight: Tensor, scale: Tensor) -> Tensor:
    """1/n + alpha where |w| <= 1, 1/n elsewhere, n the weights of a filter (section 3.1)."""
    return 1 / weight[0].numel() + clipped_weight(weight, scale)


@dataclass(frozen=True)
class XNORNet(BareConv):
    """(sign ⊛ alpha·sign(w)) ⊙ K → + identity.

    Forward:  y = K alpha_o conv(sign(x), sign(w)), alpha_o = mean |w_o|, sign(0) = +1;
              K the mean over channels of |x|, box-filtered as wide as the kernel (equation 11)
    Gradient: of the activation's sign 1 where |x| <= 1, 0 elsewhere; of K what its formula says;
              of the weight 1/n + alpha_o where |w| <= 1, 1/n elsewhere, n = C_in·k·k
    Source:   XNOR-Net: ImageNet Classification Using Binary Convolutional Neural Networks, ECCV
              2016, sections 3.1 and 3.2

    The original's block, too, has its norm before the sign, and no identity;
    ``identity_shortcut`` says whether there is one.

    As in the paper's tables, K's own operations are not counted.
    """

    epilogue: ClassVar[str | None] = "xnor-net"
    packing: ClassVar[Packing] = ChannelMean()

    def binarizers(self) -> tuple[nn.Module, nn.Module]:
        """See ``BareConv.binarizers``."""
        from bidiffsr.binary.quantizers import ActivationSign, WeightSign

        return ActivationSign(clipped), WeightSign(mean_of_each, through_both)

    def conv(self, channels_in: int, channels_out: int, kernel: int, stride: int = 1) -> ConvBlock:
        """See ``ConvMethod.conv``."""
        from bidiffsr.binary.quantizers import InputScale

        block = super().conv(channels_in, channels_out, kernel, stride)
        block.conv.scale_map = InputScale(kernel, stride)
        return block
