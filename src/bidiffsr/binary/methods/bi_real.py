"""Bi-Real Net (Liu et al. 2018)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from bidiffsr.binary.methods.bare import BareConv
from bidiffsr.binary.packing import MeanMagnitude, Packing

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True)
class BiReal(BareConv):
    """sign ⊛ alpha·sign(w) → + identity.

    Forward:  y = alpha_o conv(sign(x), sign(w)), alpha_o = mean |w_o| (the magnitude-aware sign)
    Gradient: of the activation's sign 2 + 2x on [-1, 0), 2 - 2x on [0, 1), of the weight's alpha_o
              where |w| <= 1; 0 elsewhere
    Source:   Bi-Real Net: Enhancing the Performance of 1-bit CNNs with Improved Representational
              Capability and Advanced Training Algorithm, ECCV 2018, sections 3.2 and 3.3

    The original has a batch norm between the convolution and the sum, which takes alpha in after
    training. Here the norm comes before the convolution and alpha stays.
    """

    epilogue: ClassVar[str | None] = "bi-diffsr"
    packing: ClassVar[Packing] = MeanMagnitude()

    def binarizers(self) -> tuple[nn.Module, nn.Module]:
        """See ``BareConv.binarizers``."""
        from bidiffsr.binary.quantizers import ActivationSign, ScaledWeightSign

        return ActivationSign(), ScaledWeightSign()
