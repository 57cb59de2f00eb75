"""The networks on paper: every layer and parameter by name, shape and role; no PyTorch.

Names, shapes and order are those of the PyTorch modules. What packing, the transfer of weights,
the reading of published checkpoints and counting know of a network, they know from here.
"""

from __future__ import annotations

from bidiffsr.binary.parameters import Parameter, Role
from bidiffsr.config import BiDiffSRConfig, SR3Config
from bidiffsr.nn.layout.layers import ConvBlock, Layer, LayerCount
from bidiffsr.nn.layout.sr3 import sr3_layers
from bidiffsr.nn.layout.unet import Level, UNetLayout, Unit, unet_layout

__all__ = [
    "ConvBlock",
    "Layer",
    "LayerCount",
    "Level",
    "Parameter",
    "Role",
    "UNetLayout",
    "Unit",
    "network_layers",
    "network_parameters",
    "unet_layout",
]


def network_layers(config: BiDiffSRConfig | SR3Config) -> list[Layer]:
    """Every layer of the network, in PyTorch's order."""
    if isinstance(config, SR3Config):
        return list(sr3_layers(config))
    return list(unet_layout(config).layers())


def network_parameters(config: BiDiffSRConfig | SR3Config) -> dict[str, Parameter]:
    """Every parameter of the network, under the PyTorch module's name and in its order."""
    return {
        name: parameter
        for layer in network_layers(config)
        for name, parameter in layer.parameters.items()
    }
