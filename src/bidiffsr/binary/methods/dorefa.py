"""DoReFa-Net (Zhou et al. 2016) with one-bit weights: one and two bits an activation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from bidiffsr.binary.methods.bare import BareConv
from bidiffsr.binary.packing import LayerMean, Packing

if TYPE_CHECKING:
    from torch import Tensor, nn


def mean_of_all(weight: Tensor) -> Tensor:
    """E(|w|) over the whole layer, a scalar."""
    return weight.abs().mean()


def straight_through(weight: Tensor, scale: Tensor) -> Tensor:
    """1 everywhere: what DoReFa passes on as it is."""
    return weight.new_ones(())


@dataclass(frozen=True)
class DoReFa(BareConv):
    """round(clip(x)) ⊛ E(|w|)·sign(w) → + identity.

    Forward:  y = conv(a, w_b), a = round(clip(x, 0, 1)) in {0, 1}, so 1 where x > 1/2;
              w_b = E(|w|) sign(w), the mean over the whole layer, sign(0) = +1
    Gradient: of the activation 1 on [0, 1], 0 elsewhere; of the weight 1 everywhere
    Source:   DoReFa-Net: Training Low Bitwidth Convolutional Neural Networks with Low Bitwidth
              Gradients, arXiv 1606.06160, sections 2.2 (quantize_k) to 2.4

    The original may quantize gradients, too, and has a batch norm behind the convolution and no
    identity. Here gradients are real, the norm comes before the convolution, and
    ``identity_shortcut`` says whether there is one.

    The engine knows bits of ±1 alone and leaves this to PyTorch.
    """

    packing: ClassVar[Packing] = LayerMean()

    def binarizers(self) -> tuple[nn.Module, nn.Module]:
        """See ``BareConv.binarizers``."""
        from bidiffsr.binary.quantizers import ActivationLevels, WeightSign

        return ActivationLevels(self.activation_bits), WeightSign(mean_of_all, straight_through)


@dataclass(frozen=True)
class DoReFaTwoBit(DoReFa):
    """The same with activations in {0, 1/3, 2/3, 1}: round(3 clip(x, 0, 1)) / 3.

    A product of one bit by two is counted as two of bits (section 2.1).
    """

    activation_bits: ClassVar[int] = 2
