"""The optimizer's learning rates: over the iterations, and of each group of weights."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import nn

from bidiffsr.binary import BinaryConv2d
from bidiffsr.config import OptimizerConfig


def make_optimizer(network: nn.Module, config: OptimizerConfig) -> torch.optim.Adam:
    """Adam over all parameters, whose rates `set_learning_rate` sets."""
    groups = _parameter_groups(network, config.full_precision_factor)
    return torch.optim.Adam(groups, lr=1.0, betas=config.betas, fused=True)


def set_learning_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Give every group its rate: ``rate``, or its own multiple of that."""
    for group in optimizer.param_groups:
        group["lr"] = group.get("factor", 1.0) * rate


def learning_rate(
    config: OptimizerConfig, iteration: int, iterations: int, warm_from: int = 0
) -> float:
    """The rate at ``iteration``, from 0: linear warm-up, then constant or a half cosine.

    The optimizer's moments were fresh at ``warm_from``, where the warm-up begins.
    """
    warm = min(1.0, (iteration - warm_from + 1) / (config.warmup + 1))
    if config.final_learning_rate is None:
        return warm * config.learning_rate
    done = min(1.0, iteration / iterations)
    final = config.final_learning_rate
    cosine = 0.5 * (1 + math.cos(math.pi * done))
    return warm * (final + (config.learning_rate - final) * cosine)


def _parameter_groups(network: nn.Module, factor: float) -> list[dict[str, Any]]:
    """One for all, or a second, at ``factor`` of the rate, for full-precision convolutions."""
    if factor == 1:
        return [{"params": list(network.parameters())}]
    real = [
        layer.weight
        for layer in network.modules()
        if isinstance(layer, nn.Conv2d)
        or (isinstance(layer, BinaryConv2d) and layer.binarize_weight is None)
    ]
    chosen = {id(weight) for weight in real}
    others = [weight for weight in network.parameters() if id(weight) not in chosen]
    return [{"params": others}, {"params": real, "factor": factor}]
