"""DoReFa-Net (Zhou et al. 2016) with one-bit weights: one and two bits an activation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from bidiffsr.binary.methods.bare import BareConv
from bidiffsr.binary.packing import Floats, LayerMean, Packing

if TYPE_CHECKING:
    from torch import Tensor, nn


def mean_of_all(weight: Tensor) -> Tensor:
    """E(|w|) over the whole layer, a scalar."""
    return weight.abs().mean()


def least_at(level: int, highest: int) -> np.float32:
    """The least float32 that `ActivationLevels` rounds to ``level`` of ``highest`` or above."""
    least = np.float32((level - 0.5) / highest * (1 - 1e-6))
    while np.rint(least * np.float32(highest)) < level:
        least = np.nextafter(least, np.float32(1))
    return least


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

    The engine decides a step as it decides a sign, by a threshold: the least number above 1/2.
    """

    epilogue: ClassVar[str | None] = "dorefa"
    packing: ClassVar[Packing] = LayerMean()
    steps: ClassVar[dict[str, int]] = {"shift.bias": 1}
    """What the engine calls the thresholds, and the levels that begin there."""

    def binarizers(self) -> tuple[nn.Module, nn.Module]:
        """See ``BareConv.binarizers``."""
        from bidiffsr.binary.quantizers import ActivationLevels, WeightSign

        return ActivationLevels(self.activation_bits), WeightSign(mean_of_all, straight_through)

    def constants(self, channels_in: int, channels_out: int) -> dict[str, Floats]:
        """See ``ConvMethod.constants``: steps and an RPReLU that changes nothing."""
        highest = 2**self.activation_bits - 1
        shifts = {
            name: np.full((1, channels_in), -least_at(level, highest), np.float32)
            for name, level in self.steps.items()
        }
        return super().constants(channels_in, channels_out) | shifts


@dataclass(frozen=True)
class DoReFaTwoBit(DoReFa):
    """The same with activations in {0, 1/3, 2/3, 1}: round(3 clip(x, 0, 1)) / 3.

    A product of one bit by two is counted as two of bits (section 2.1), and so the engine computes
    it: the bits of levels 0 to 3 are two planes, of which the upper counts twice.
    """

    epilogue: ClassVar[str | None] = "dorefa-w1a2"
    steps: ClassVar[dict[str, int]] = {"shift.lower": 1, "shift.bias": 2, "shift.upper": 3}
    activation_bits: ClassVar[int] = 2
