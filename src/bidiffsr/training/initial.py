"""The weights that training begins with, where those of the modules are a bad beginning."""

from __future__ import annotations

import math

import torch
from torch import nn

from bidiffsr.config import ModelConfig


def begin(network: nn.Module, config: ModelConfig) -> None:
    """Prepare a fresh network of ``config`` for learning a residual; others are left as they are.

    The tail begins with zeros, so the first answer is the variable's mean and not noise to be
    unlearned. The stem begins with filters that see how the condition differs from place to place,
    in the residual's unit, and not how bright it is: signs, unlike real features, cannot hold both,
    and one-bit layers behind a stem that mostly passes brightness on learn little from edges.
    """
    if config.diffusion.variable != "residual":
        return
    stem, tail = (network.get_submodule(name) for name in ("stem", "tail"))
    assert isinstance(stem, nn.Conv2d)
    assert isinstance(tail, nn.Conv2d)
    nn.init.zeros_(tail.weight)
    if tail.bias is not None:
        nn.init.zeros_(tail.bias)
    channels = config.network.condition_channels
    with torch.no_grad():
        filters = torch.randn_like(stem.weight[:, :channels])
        filters -= filters.mean(dim=(2, 3), keepdim=True)
        filters /= config.diffusion.residual_scale * math.sqrt(filters[0].numel())
        stem.weight[:, :channels] = filters
