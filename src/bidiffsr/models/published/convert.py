"""Checkpoints and option files of the published code, as our network and configuration."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from itertools import count, islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from bidiffsr.binary.methods import FullPrecision
from bidiffsr.config import BiDiffSRConfig, ModelConfig, load_yaml
from bidiffsr.errors import CheckpointError, ConfigError
from bidiffsr.models.container import parse_json
from bidiffsr.models.published.options import reference_model_config, reference_network_config
from bidiffsr.models.published.tensors import check_fits, network_around, read_tensors
from bidiffsr.nn import BiDiffSRUNet
from bidiffsr.nn.layout import (
    ConvBlock,
    Layer,
    Level,
    UNetLayout,
    Unit,
    network_parameters,
    unet_layout,
)

_REFERENCE_CONFIG_KEY = "config"


def from_reference(
    path: str | os.PathLike[str], options: Mapping[str, Any] | None = None
) -> BiDiffSRUNet:
    """See ``bidiffsr.models.networks.from_reference``, which looks for file and PyTorch first."""
    path = Path(path)
    state, metadata = read_tensors(path)
    given: Any = options
    if given is None:
        if _REFERENCE_CONFIG_KEY not in metadata:
            raise ConfigError(
                f"{path}: does not say how its network is built; pass options, the "
                "network_g mapping of its option file"
            )
        given = parse_json(metadata[_REFERENCE_CONFIG_KEY], f"{path}: metadata key 'config'")
    config = reference_network_config(given, where=str(path))
    return network_around(config, _rename_reference(state, config, path))


def convert_reference(path: Path, option_file: Path | None) -> tuple[BiDiffSRUNet, ModelConfig]:
    """Read a published checkpoint with its option file (``network_g``, ``beta_schedule``).

    Without an option file the network's options come from the checkpoint itself, as in
    ``from_reference``, and the chain is the published one.

    Raises:
        CheckpointError, ConfigError: as ``from_reference``.
    """
    document: dict[str, Any] = {}
    if option_file is not None:
        loaded = load_yaml(option_file)
        if not isinstance(loaded, dict) or loaded.get("network_g") is None:
            raise ConfigError(f"{option_file}: has no network_g; expected a published option file")
        document = loaded
    network = from_reference(path, document.get("network_g"))
    where = str(option_file or path)
    return network, reference_model_config(document, network.config, path.name, where)


def _rename_reference(
    state: Mapping[str, Tensor], config: BiDiffSRConfig, path: Path
) -> dict[str, Tensor]:
    """Give a reference state dict our names; the K parameter sets of a layer are stacked."""
    remaining = dict(state)
    renamed: dict[str, Tensor] = {}
    parameters = network_parameters(config)
    for ours, theirs in _reference_names(config):
        shape = parameters[ours].shape
        by_group = isinstance(theirs, list)
        values = []
        for name in theirs if by_group else [theirs]:
            if name not in remaining:
                raise CheckpointError(f"{path}: {name}: missing")
            value = remaining.pop(name)
            if by_group and value.shape == (1, shape[1], 1, 1):
                value = value.reshape(-1)
            check_fits(value, shape[1:] if by_group else shape, f"{path}: {name}")
            values.append(value)
        renamed[ours] = torch.stack(values) if by_group else values[0]
    if remaining:
        raise CheckpointError(f"{path}: {min(remaining)}: is no part of this network")
    return renamed


# What the reference calls a layer of a unit, and a parameter of a convolution.
_BLOCK = {
    "norm1": "res_block.block1.block.0",
    "conv1": "res_block.block1.conv",
    "time": "res_block.timestep_func.1",
    "norm2": "res_block.block2.block.0",
    "conv2": "res_block.block2.conv",
    "attention.norm": "attn.norm",
    "attention.qkv": "attn.qkv",
    "attention.out": "attn.out",
}
_RESAMPLE = {"conv1": "biconv1", "conv2": "biconv2"}
_FUSION = {"conv1": "biconv_1", "conv2": "biconv_2"}
_TIME_EMBEDDING = {"expand": "1", "contract": "3"}
_PLAIN_CONV = {"conv.weight": "weight", "conv.bias": "bias"}
_BI_CONV = {
    "conv.weight": "binary_conv.weight",
    "shift.bias": "TaR.dynamic_move_{}.bias",
    "activation.bias_in": "TaA.dynamic_relu_{}.pr_bias0.bias",
    "activation.slope": "TaA.dynamic_relu_{}.pr_prelu.weight",
    "activation.bias_out": "TaA.dynamic_relu_{}.pr_bias1.bias",
}


def _reference_names(config: BiDiffSRConfig) -> Iterator[tuple[str, str | list[str]]]:
    """Our name of each parameter, and the reference's: one, or K that are stacked to make it."""
    for layer, theirs in _reference_layers(unet_layout(config)):
        names: dict[str, str] = {}
        if isinstance(layer, ConvBlock):
            names = _PLAIN_CONV if isinstance(layer.method, FullPrecision) else _BI_CONV
        for part in layer.own():
            name = f"{theirs}.{names.get(part, part)}"
            by_group = [name.format(group) for group in range(config.time_groups)]
            yield f"{layer.name}.{part}", by_group if "{}" in name else name


def _reference_layers(layout: UNetLayout) -> Iterator[tuple[Layer, str]]:
    """Every layer and its name there, where all units of a direction are in one flat list."""

    def inside(unit: Unit, theirs: str, names: dict[str, str]) -> Iterator[tuple[Layer, str]]:
        return (
            (layer, f"{theirs}.{names[part]}") for part, layer in unit.layers.items() if layer.own()
        )

    def listed(levels: tuple[Level, ...], theirs: str, first: int) -> Iterator[tuple[Layer, str]]:
        numbers = count(first)
        for level in levels:
            fusions = iter(level.fusions)
            for block in level.blocks:
                for fusion in islice(fusions, 1):  # going up, one before each block
                    yield from inside(fusion, f"{theirs}.{next(numbers)}", _FUSION)
                yield from inside(block, f"{theirs}.{next(numbers)}", _BLOCK)
            if level.resample is not None:
                yield from inside(level.resample, f"{theirs}.{next(numbers)}", _RESAMPLE)

    yield from inside(layout.time_embedding, "timestep_level_mlp", _TIME_EMBEDDING)
    yield layout.stem, "downs.0"
    yield from listed(layout.down, "downs", 1)
    for number, block in enumerate(layout.middle):
        yield from inside(block, f"mid.{number}", _BLOCK)
    yield from listed(layout.up, "ups", 0)
    yield layout.tail_norm, "final_conv.block.0"
    yield layout.tail, "final_conv.block.3"
