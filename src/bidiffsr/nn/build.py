"""Networks from configurations."""

from __future__ import annotations

from torch import nn

from bidiffsr.config import BiDiffSRConfig, SR3Config
from bidiffsr.nn.sr3 import SR3UNet
from bidiffsr.nn.unet import BiDiffSRUNet


def build_network(config: BiDiffSRConfig | SR3Config) -> nn.Module:
    """The network that ``config`` describes, freshly initialized."""
    return SR3UNet(config) if isinstance(config, SR3Config) else BiDiffSRUNet(config)
