"""ReActNet (Liu et al. 2020)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

from bidiffsr.binary.methods.base import MethodOptions
from bidiffsr.binary.methods.bi_diffsr import BiDiffSR


@dataclass(frozen=True)
class ReActNet(BiDiffSR):
    """RSign → ⊛ alpha·sign(w) → RPReLU → + identity: BI-DiffSR with one set for all timesteps.

    Forward:  a = sign(x + b), the learned threshold of a channel being -b (RSign, equation 1);
              y = alpha_o conv(a, sign(w)), alpha_o = mean |w_o|;
              z = PReLU(y + b0; slope) + b1, a channel (RPReLU, equation 2)
    Gradient: of the activation's sign 2 - 2|x + b| within [-1, 1), of the weight's alpha_o where
              |w| <= 1; 0 elsewhere
    Source:   ReActNet: Towards Precise Binary Neural Network with Generalized Activation Functions,
              ECCV 2020, section 4

    The original has a batch norm behind the convolution and adds the identity before RPReLU. Here
    the norm comes before the convolution and the identity last, as in BI-Conv.
    """

    @classmethod
    def of(cls, options: MethodOptions) -> Self:
        """See ``ConvMethod.of``."""
        return cls(1, 1, options.identity_shortcut, options.weight_gain)
