"""The loss that a run asks for."""

from __future__ import annotations

from collections.abc import Callable

from lightning_fabric import Fabric
from torch import Tensor, nn

from bidiffsr.config import TrainingConfig
from bidiffsr.training.adversarial import AdversarialLoss, Discriminator
from bidiffsr.training.losses import LOSSES, Loss, PerceptualLoss, WeightedSum
from bidiffsr.training.perceptual import VggDistance


def make_loss(
    config: TrainingConfig, place: Callable[[nn.Module], nn.Module], fabric: Fabric
) -> Loss:
    """The loss that a run asks for.

    Args:
        config: the run.
        place: moves a network to where the run's computes.
        fabric: the run's precision and processes.

    Raises:
        CheckpointError: the weights of the perceptual loss cannot be read.
    """
    terms: list[tuple[float, Loss]] = [(1.0, LOSSES[config.loss])]
    perceptual, adversarial = config.perceptual, config.adversarial
    if perceptual is not None:
        distance = VggDistance(perceptual.weights, perceptual.blocks, compiled=config.compile)
        loss = PerceptualLoss(place(distance), fabric.autocast)
        terms.append((perceptual.factor, loss))
    if adversarial is not None:

        def mean(values: Tensor) -> Tensor:
            reduced: Tensor = fabric.all_reduce(values, reduce_op="mean")  # type: ignore[assignment]
            return reduced

        loss = AdversarialLoss(
            place(Discriminator(adversarial.channels)),
            adversarial.learning_rate,
            fabric.autocast,
            mean,
        )
        terms.append((adversarial.factor, loss))
    return terms[0][1] if len(terms) == 1 else WeightedSum(tuple(terms))
