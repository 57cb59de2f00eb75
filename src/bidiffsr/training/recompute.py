"""Activation checkpointing: less memory for more arithmetic (Chen et al., arXiv 1604.06174)."""

from __future__ import annotations

from functools import partial

from torch import nn
from torch.utils.checkpoint import checkpoint

from bidiffsr.nn.blocks import ResidualBlock
from bidiffsr.nn.sr3 import SR3Block


def recompute_blocks(network: nn.Module) -> None:
    """Have the residual blocks keep their inputs alone, and compute the rest anew going back.

    Results and gradients are the same, dropout included. A copy of the network would share the
    blocks' computation with it: copy first.
    """
    for block in network.modules():
        if isinstance(block, ResidualBlock | SR3Block):
            block.forward = partial(checkpoint, block.forward, use_reentrant=False)
