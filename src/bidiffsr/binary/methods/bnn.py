"""Binarized Neural Networks (Courbariaux, Hubara et al. 2016)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from bidiffsr.binary.methods.bare import BareConv
from bidiffsr.binary.packing import Packing, Unscaled

if TYPE_CHECKING:
    from torch import Tensor, nn


def clipped(x: Tensor) -> Tensor:
    """1 where |x| <= 1, 0 elsewhere: the straight-through estimator of BNN, equation 4."""
    return (x.abs() <= 1).to(x.dtype)


def clipped_weight(weight: Tensor, scale: Tensor) -> Tensor:
    """The same of weights under a scale, a constant factor."""
    return scale * clipped(weight)


def one(weight: Tensor) -> Tensor:
    """No scale: 1, a scalar."""
    return weight.new_ones(())


@dataclass(frozen=True)
class BNN(BareConv):
    """sign ⊛ sign(w), no scale → + identity.

    Forward:  y = conv(sign(x), sign(w)), sign(0) = +1 (equation 1)
    Gradient: of either sign 1 where its argument is within [-1, 1], 0 elsewhere (equation 4)
    Source:   Binarized Neural Networks: Training Neural Networks with Weights and Activations
              Constrained to +1 or -1, arXiv 1602.02830

    The original has a batch norm behind each convolution, keeps weights within [-1, 1] and has no
    identity. Here the norm comes before the convolution, weights beyond 1 stay where they are, and
    ``identity_shortcut`` says whether there is one.
    """

    epilogue: ClassVar[str | None] = "bi-diffsr"
    scale_follows: ClassVar[bool] = False
    packing: ClassVar[Packing] = Unscaled()

    def binarizers(self) -> tuple[nn.Module, nn.Module]:
        """See ``BareConv.binarizers``."""
        from bidiffsr.binary.quantizers import ActivationSign, WeightSign

        return ActivationSign(clipped), WeightSign(one, clipped_weight)
