"""Distillation: another network's prediction as a part of the target."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from bidiffsr.config import TrainingConfig
from bidiffsr.errors import TrainingError
from bidiffsr.models.trained import load_model


class Teacher:
    """A trained network whose prediction is mixed into the target.

    Args:
        network: (input, condition, timesteps) → prediction.
        weight: of its prediction; the truth has the rest.
    """

    def __init__(self, network: nn.Module, weight: float) -> None:
        self._network = network
        self._weight = weight

    def mix(self, target: Tensor, *inputs: Tensor) -> Tensor:
        """The target, (N, 3, H, W) float32, with the teacher's part in it."""
        with torch.no_grad():
            return torch.lerp(target, self._network(*inputs).float(), self._weight)


def load_teacher(config: TrainingConfig, place: Callable[[nn.Module], nn.Module]) -> Teacher | None:
    """The teacher that a run asks for, if it does.

    Args:
        config: the run.
        place: moves a network to where the run's computes.

    Raises:
        TrainingError: it predicts something else than the run's network.
        CheckpointError: its file cannot be read.
    """
    if config.teacher is None:
        return None
    network, model = load_model(config.teacher)
    if (model.diffusion, model.scale) != (config.model.diffusion, config.model.scale):
        raise TrainingError(
            f"{config.teacher}: was trained for another diffusion or scale than model; a teacher "
            "must predict the same thing"
        )
    if not config.distillation_weight:
        return None
    return Teacher(place(network.requires_grad_(False)), config.distillation_weight)
