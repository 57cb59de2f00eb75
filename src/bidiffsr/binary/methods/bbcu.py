"""BBCU (Xia et al. 2023)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, ClassVar

from bidiffsr.binary.methods.bnn import clipped_weight
from bidiffsr.binary.methods.reactnet import ReActNet
from bidiffsr.binary.packing import ScaledChannelMean
from bidiffsr.binary.parameters import Parameter

if TYPE_CHECKING:
    from torch import Tensor

    from bidiffsr.binary.layers import ConvBlock


def alignment(channels: int) -> float:
    """k = 130 n / 64, by which the identity is to be larger beside a conv of n channels."""
    return 130 * channels / 64


def aligned_mean(weight: Tensor, k: float) -> Tensor:
    """mean |w_o| / k of each output channel, (C_out, 1, 1, 1)."""
    return weight.abs().mean(dim=(1, 2, 3), keepdim=True) / k


@dataclass(frozen=True)
class BBCU(ReActNet):
    """RSign → ⊛ (alpha / k)·sign(w) → RPReLU → + identity.

    Forward:  y = (alpha_o / k) conv(sign(x + b), sign(w)), alpha_o = mean |w_o|, sign(0) = +1,
              k = 130 C_in / 64; RPReLU as in ReActNet, before the identity is added
    Gradient: of the activation's sign 2 - 2|x + b| within [-1, 1), of the weight's alpha_o / k
              where |w| <= 1; 0 elsewhere
    Source:   Basic Binary Convolution Unit for Binarized Image Restoration Network, ICLR 2023,
              section 3 (residual alignment, k = 130 n / 64 for n channels and pictures in [0, 1])

    The original multiplies the picture by k before the first layer and divides by it behind the
    last, so that features, which the identity hands on, outweigh what a convolution adds. Signs
    ignore a factor, and convolutions and PReLU hand it on: dividing each convolution's result by k
    is the same, and fits the slots. That there is no norm is not the method's here but the
    network's: ``normalization: affine`` is the nearest, since group norm undoes any factor.
    """

    scale_follows: ClassVar[bool] = False

    def parameters(self, channels_in: int, channels_out: int, kernel: int) -> dict[str, Parameter]:
        """See ``ConvMethod.parameters``."""
        result = super().parameters(channels_in, channels_out, kernel)
        packing = ScaledChannelMean(1 / alignment(channels_in))
        return result | {"conv.weight": replace(result["conv.weight"], packing=packing)}

    def conv(self, channels_in: int, channels_out: int, kernel: int, stride: int = 1) -> ConvBlock:
        """See ``ConvMethod.conv``."""
        from bidiffsr.binary.quantizers import WeightSign

        block = super().conv(channels_in, channels_out, kernel, stride)
        scale = partial(aligned_mean, k=alignment(channels_in))
        block.conv.binarize_weight = WeightSign(scale, clipped_weight)
        return block
