"""The networks: BI-DiffSR's U-Net with its ablations, and SR3."""

from __future__ import annotations

from torch import nn

from bidiffsr.config import BiDiffSRConfig, SR3Config
from bidiffsr.nn.sr3 import SR3UNet
from bidiffsr.nn.unet import BiDiffSRUNet

__all__ = ["BiDiffSRUNet", "SR3UNet", "build_network"]


def build_network(config: BiDiffSRConfig | SR3Config) -> nn.Module:
    """The network that ``config`` describes, freshly initialized."""
    return SR3UNet(config) if isinstance(config, SR3Config) else BiDiffSRUNet(config)
