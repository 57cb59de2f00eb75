"""What a training run costs, in multiply-accumulates."""

from __future__ import annotations

import torch
from torch import nn

from bidiffsr.checkpoint import load_model
from bidiffsr.config import TrainingConfig
from bidiffsr.nn import build_network
from bidiffsr.nn.counting import count

# A backward pass computes two gradients for each product of the forward pass.
_PASSES = 3


def iteration_macs(config: TrainingConfig) -> int:
    """Multiply-accumulates of one update: all samples, forward and backward, the teacher too.

    While training, a product of bits costs what any other does.
    """
    with torch.device("meta"):
        network = build_network(config.model.network)
    each = _PASSES * _forward_macs(network, config.data.crop)
    if config.teacher is not None:
        each += _forward_macs(load_model(config.teacher)[0], config.data.crop)
    return each * config.batch


def _forward_macs(network: nn.Module, side: int) -> int:
    return sum(layer.macs + layer.binary_macs for layer in count(network, side, side))
