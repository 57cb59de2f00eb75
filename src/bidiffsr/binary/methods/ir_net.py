"""IR-Net (Qin et al. 2020)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from bidiffsr.binary.methods.bare import BareConv
from bidiffsr.binary.packing import Balanced, Packing

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True)
class IRNet(BareConv):
    """sign ⊛ 2^s·sign(standardized w) → + identity.

    Forward:  y = 2^s_o conv(sign(x), sign(v)), v = (w - mean w_o) / std w_o, sign(0) = +1,
              s_o = round(log2(mean |v_o|)) (Libra parameter binarization)
    Gradient: of either sign k t (1 - tanh²(t ·)), t = 10^(2 i / N - 1) at iteration i of N,
              k = max(1 / t, 1) (error decay estimator); of v by w the standardization's own
    Source:   Forward and Backward Information Retention for Accurate Binary Neural Networks, CVPR
              2020, sections 3.2 and 3.3

    The original has a batch norm behind the convolution. Here the norm comes before it.
    """

    epilogue: ClassVar[str | None] = "bi-diffsr"
    scale_follows: ClassVar[bool] = False
    packing: ClassVar[Packing] = Balanced()

    def binarizers(self) -> tuple[nn.Module, nn.Module]:
        """See ``BareConv.binarizers``."""
        from bidiffsr.binary.quantizers import ActivationSign, BalancedWeightSign, ErrorDecay

        return ActivationSign(ErrorDecay()), BalancedWeightSign()
