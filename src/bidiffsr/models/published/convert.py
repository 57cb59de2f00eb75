"""Checkpoints and option files of the published code, as our network and configuration."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from bidiffsr.binary import ConvBlock
from bidiffsr.config import BiDiffSRConfig, ModelConfig, load_yaml
from bidiffsr.errors import CheckpointError, ConfigError
from bidiffsr.models.container import parse_json
from bidiffsr.models.published.options import reference_model_config, reference_network_config
from bidiffsr.models.published.tensors import check_fits, load_into, read_tensors
from bidiffsr.nn import BiDiffSRUNet
from bidiffsr.nn.blocks import ConsistentDown, ConsistentUp, ResidualBlock, ShuffleFusion

_REFERENCE_CONFIG_KEY = "config"


def from_reference(
    path: str | os.PathLike[str], options: Mapping[str, Any] | None = None
) -> BiDiffSRUNet:
    """Build our network from a checkpoint of the published code.

    Args:
        path: ``.pth`` (a state dict, or a dict with ``params_ema`` or ``params``; keys may start
            with ``module.``) or ``.safetensors`` with the same names.
        options: the published option file's ``network_g`` mapping; by default the JSON in the
            safetensors metadata key ``config``.

    Returns:
        The network in evaluation mode, float32: ``forward(x_t, cond, t)``.

    Raises:
        CheckpointError: the file cannot be read, or names the first key that does not fit.
        ConfigError: ``options`` are missing or wrong.
    """
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
    return load_into(config, _rename_reference(state, config, path), path)


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
    with torch.device("meta"):
        network = BiDiffSRUNet(config)
    remaining = dict(state)
    renamed: dict[str, Tensor] = {}
    for ours, theirs in _reference_names(network):
        shape = network.get_parameter(ours).shape
        by_group = ".shift." in ours or ".activation." in ours
        values = []
        for name in theirs:
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


def _reference_names(network: BiDiffSRUNet) -> Iterator[tuple[str, list[str]]]:
    """Pairs of our parameter name and the reference's names that are stacked to make it."""
    groups = network.config.time_groups
    inner: dict[type[nn.Module], tuple[tuple[str, str], ...]] = {
        ResidualBlock: (
            ("norm1", "res_block.block1.block.0"),
            ("conv1", "res_block.block1.conv"),
            ("time", "res_block.timestep_func.1"),
            ("norm2", "res_block.block2.block.0"),
            ("conv2", "res_block.block2.conv"),
            ("attention.norm", "attn.norm"),
            ("attention.qkv", "attn.qkv"),
            ("attention.out", "attn.out"),
        ),
        ConsistentDown: (("conv1", "biconv1"), ("conv2", "biconv2")),
        ConsistentUp: (("conv1", "biconv1"), ("conv2", "biconv2")),
        ShuffleFusion: (("conv1", "biconv_1"), ("conv2", "biconv_2")),
    }
    for ours, theirs, module in _reference_modules(network):
        parts = inner.get(type(module), (("", ""),))
        for part, their_part in parts:
            if part.startswith("attention") and getattr(module, "attention", None) is None:
                continue
            leaf = module.get_submodule(part)
            our_name = ".".join(filter(None, (ours, part)))
            their_name = ".".join(filter(None, (theirs, their_part)))
            if isinstance(leaf, ConvBlock):
                yield from _reference_conv_names(our_name, their_name, leaf, groups)
            else:
                for parameter, _ in leaf.named_parameters():
                    yield f"{our_name}.{parameter}", [f"{their_name}.{parameter}"]


def _reference_conv_names(
    ours: str, theirs: str, block: ConvBlock, groups: int
) -> Iterator[tuple[str, list[str]]]:
    if block.shift is None:
        yield f"{ours}.conv.weight", [f"{theirs}.weight"]
        yield f"{ours}.conv.bias", [f"{theirs}.bias"]
        return
    yield f"{ours}.conv.weight", [f"{theirs}.binary_conv.weight"]
    yield (
        f"{ours}.shift.bias",
        [f"{theirs}.TaR.dynamic_move_{group}.bias" for group in range(groups)],
    )
    parts = {"bias_in": "pr_bias0.bias", "slope": "pr_prelu.weight", "bias_out": "pr_bias1.bias"}
    for part, their_part in parts.items():
        names = [f"{theirs}.TaA.dynamic_relu_{group}.{their_part}" for group in range(groups)]
        yield f"{ours}.activation.{part}", names


def _reference_modules(network: BiDiffSRUNet) -> Iterator[tuple[str, str, nn.Module]]:
    """Our module name, the reference's (one flat list a direction) and the module, in order."""
    yield "time_embedding.expand", "timestep_level_mlp.1", network.time_embedding.expand
    yield "time_embedding.contract", "timestep_level_mlp.3", network.time_embedding.contract
    yield "stem", "downs.0", network.stem
    names: dict[str, list[str]] = {"down": [], "up": []}
    for index, level in enumerate(network.down):
        names["down"] += [f"down.{index}.blocks.{block}" for block in range(len(level.blocks))]  # type: ignore[arg-type]
        names["down"] += [f"down.{index}.resample"] if level.resample is not None else []
    for index, level in enumerate(network.up):
        for block in range(len(level.blocks)):  # type: ignore[arg-type]
            names["up"] += [f"up.{index}.fusions.{block}", f"up.{index}.blocks.{block}"]
        names["up"] += [f"up.{index}.resample"] if level.resample is not None else []
    for position, name in enumerate(names["down"], start=1):
        yield name, f"downs.{position}", network.get_submodule(name)
    for position, block in enumerate(network.middle):
        yield f"middle.{position}", f"mid.{position}", block
    for position, name in enumerate(names["up"]):
        yield name, f"ups.{position}", network.get_submodule(name)
    yield "tail_norm", "final_conv.block.0", network.tail_norm
    yield "tail", "final_conv.block.3", network.tail
