"""Our model files (docs/format.md), in and out of PyTorch networks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from bidiffsr.binary.packing import PackedWeight
from bidiffsr.config import BiDiffSRConfig, ModelConfig
from bidiffsr.models.container import open_model_file, write_model_file
from bidiffsr.models.packed import read_parameters, save_packed
from bidiffsr.models.published.tensors import network_around
from bidiffsr.nn.layout import network_parameters


def save_model(
    path: Path, network: nn.Module, config: ModelConfig, *, packed: bool = False
) -> None:
    """Write a model file: the weights, and the configuration in its header (docs/format.md).

    The file appears whole or not at all.

    Args:
        path: ends in ``.safetensors``.
        network: of ``config.network``.
        config: what the file says of itself.
        packed: store a binarized weight as its signs, one bit each, and its scales, which is all
            that inference needs; otherwise as the float32 that training goes on from. SR3 has no
            such weights, and so only one form.

    Raises:
        ConfigError, OutputError: as ``write_model_file``.
        CheckpointError: ``packed``, and the weights are not finite.
    """
    arrays = parameters_of(network)
    if packed and isinstance(config.network, BiDiffSRConfig):
        save_packed(path, config, arrays, float_type="fp32")
    else:
        write_model_file(path, config, {name: ("F32", value) for name, value in arrays.items()})


def parameters_of(network: nn.Module) -> dict[str, NDArray[np.float32]]:
    """The parameters by name."""
    return {
        name: value.detach().float().cpu().contiguous().numpy()
        for name, value in network.state_dict().items()
    }


def load_model(path: Path) -> tuple[nn.Module, ModelConfig]:
    """See ``bidiffsr.models.networks.load_model``, which looks for file and PyTorch first."""
    with open_model_file(path) as file:
        parameters = network_parameters(file.config.network)
        state: dict[str, NDArray[Any]] = {}
        for name, value in read_parameters(file.entries, file.read, parameters, file.where):
            if isinstance(value, PackedWeight):
                parameter = parameters[name]
                assert parameter.packing is not None  # or there would be no such value
                value = parameter.packing.unpack(value, parameter.shape)
            state[name] = value
        config = file.config
    tensors = {name: torch.from_numpy(value) for name, value in state.items()}
    return network_around(config.network, tensors), config
