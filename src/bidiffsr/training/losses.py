"""Training losses: what a prediction is worth, one interface for all."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Protocol

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
                (``seen_clean``, then ``to_picture``), for losses that judge pictures.
        """
        ...

    def learn(self) -> None:
        """Called after every update of the network, for losses that learn themselves."""
        return

    def state_dict(self) -> dict[str, Any]:
        """What such a loss needs to go on; empty for others."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take back what ``state_dict`` gave."""
        return


def seen_clean(prediction: Tensor, batch: Batch, diffusion: Diffusion) -> tuple[Tensor, Tensor]:
    """The clean variable that the network predicts, where its input has a signal.

    Without one nothing is known of the detail, and one step is to give the plain prediction.

    Returns:
        Which samples these are, (N,) bool, and their clean variable, (n, 3, H, W).
    """
    seen = batch.signal[:, 0, 0, 0] > 0
    clean = diffusion.prediction.clean(
        prediction[seen], batch.noisy[seen], batch.signal[seen], batch.noise_level[seen]
    )
    return seen, clean


@dataclass(frozen=True)
class TargetLoss(Loss):
    """The distance of the prediction from its target, a mean over all values."""

    distance: Callable[[Tensor, Tensor], Tensor]

    def __call__(self, prediction: Tensor, batch: Batch, diffusion: Diffusion) -> Tensor:
        """See ``Loss.__call__``."""
        return self.distance(prediction, batch.target)


@dataclass(frozen=True)
class PerceptualLoss(Loss):
    """How the predicted clean picture looks, wherever there is a signal."""

    distance: Callable[[Tensor, Tensor], Tensor]
    """Of (N, 3, H, W) from (N, 3, H, W): (N,)."""
    autocast: Callable[[], AbstractContextManager[object]]
    """The precision that it computes in."""

    def __call__(self, prediction: Tensor, batch: Batch, diffusion: Diffusion) -> Tensor:
        """See ``Loss.__call__``."""
        seen, clean = seen_clean(prediction, batch, diffusion)
        if not len(clean):
            return prediction.new_zeros(())
        picture = diffusion.to_picture(clean, batch.conditions[seen])
        with self.autocast():
            distances = self.distance(picture, batch.pictures[seen])
        return distances.sum() / len(prediction)


@dataclass(frozen=True)
class WeightedSum(Loss):
    """Several losses."""

    terms: tuple[tuple[float, Loss], ...]

    def __call__(self, prediction: Tensor, batch: Batch, diffusion: Diffusion) -> Tensor:
        """See ``Loss.__call__``."""
        losses = [weight * loss(prediction, batch, diffusion) for weight, loss in self.terms]
        return sum(losses[1:], start=losses[0])

    def learn(self) -> None:
        """See ``Loss.learn``."""
        for _, loss in self.terms:
            loss.learn()

    def state_dict(self) -> dict[str, Any]:
        """See ``Loss.state_dict``."""
        states = {str(number): loss.state_dict() for number, (_, loss) in enumerate(self.terms)}
        return {number: state for number, state in states.items() if state}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """See ``Loss.load_state_dict``."""
        for number, part in state.items():
            self.terms[int(number)][1].load_state_dict(part)


LOSSES: dict[str, Loss] = {"l1": TargetLoss(l1_loss), "l2": TargetLoss(mse_loss)}
