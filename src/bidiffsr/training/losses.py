"""Training losses: what a prediction is worth, one interface for all."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor
from torch.nn.functional import l1_loss, mse_loss

from bidiffsr.diffusion.formulation import Diffusion


@dataclass(frozen=True)
class Batch:
    """What the network was asked. All float32, (N, 3, H, W) but for the levels, (N, 1, 1, 1)."""

    pictures: Tensor
    """The high-resolution crops, [0, 1]."""
    conditions: Tensor
    """Their upscaled low-resolution partners, [0, 1]."""
    noisy: Tensor
    """The noisy variable: signal · clean + noise_level · noise."""
    signal: Tensor
    noise_level: Tensor
    target: Tensor
    """What the network is to predict; with distillation, the teacher's part is in it."""


class Loss(Protocol):
    """One loss or a sum of several."""

    def __call__(self, prediction: Tensor, batch: Batch, diffusion: Diffusion) -> Tensor:
        """The mean loss of a batch, a scalar that gradients flow from.

        Args:
            prediction: of the network, float32, like ``batch.target``.
            batch: what it predicts from and what it should have said.
            diffusion: turns a prediction into the clean picture that it stands for
                (``prediction.split``, then ``to_picture``), for losses that judge pictures.
        """
        ...


@dataclass(frozen=True)
class TargetLoss:
    """The distance of the prediction from its target, a mean over all values."""

    distance: Callable[[Tensor, Tensor], Tensor]

    def __call__(self, prediction: Tensor, batch: Batch, diffusion: Diffusion) -> Tensor:
        """See ``Loss.__call__``."""
        return self.distance(prediction, batch.target)


LOSSES: dict[str, Loss] = {"l1": TargetLoss(l1_loss), "l2": TargetLoss(mse_loss)}
