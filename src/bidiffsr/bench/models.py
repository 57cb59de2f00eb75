"""Made-up weights, for the networks that nobody has trained yet."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor, nn

    from bidiffsr.config import ModelConfig


def save_random_model(path: Path, config: ModelConfig) -> None:
    """Write a model file whose weights are random, for speed does not depend on them.

    Shifts, slopes and norms, which begin all alike, are moved as training would, so that an
    implementation that leaves one out computes something else.
    """
    import torch

    from bidiffsr.models.trained import save_model
    from bidiffsr.nn import build_network

    torch.manual_seed(0)
    network = build_network(config.network)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if _is_moved(network, name):
                parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
            _without_zeros(parameter)
    save_model(path, network, config, packed=True)


def _is_moved(network: nn.Module, name: str) -> bool:
    """Whether it belongs to a norm, TaR or TaA."""
    from torch import nn

    from bidiffsr.binary import TimestepRPReLU, TimestepShift

    owner = network.get_submodule(name.rpartition(".")[0])
    return isinstance(owner, nn.GroupNorm | TimestepShift | TimestepRPReLU)


def _without_zeros(parameter: Tensor) -> None:
    """A weight of exactly 0 has no sign; among millions of random ones there are some."""
    if parameter.dim() == 4:
        parameter[parameter == 0] = 1e-6
