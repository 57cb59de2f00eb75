"""Checkpoints and option files of the published code, as our network and configuration."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from bidiffsr.binary import ConvBlock
from bidiffsr.checkpoint.packing import form
from bidiffsr.checkpoint.tensors import load_into, parse_json, read_tensors
from bidiffsr.config import (
    BiDiffSRConfig,
    DiffusionConfig,
    LinearSchedule,
    ModelConfig,
    SamplingConfig,
    load_yaml,
    parse_config,
)
from bidiffsr.errors import CheckpointError, ConfigError
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


def reference_network_config(options: Mapping[str, Any], where: str) -> BiDiffSRConfig:
    """Map the published ``network_g`` options onto ours.

    There, attention and full-precision levels are named by a pretend picture size that halves
    at each level (``image_size``, ``attn_res``, ``fp_res``); here by level index.

    Raises:
        ConfigError: naming the first option that is missing, unknown or out of range.
    """
    if not isinstance(options, Mapping):
        raise ConfigError(f"{where}: network_g must be a mapping, got {type(options).__name__}")
    names = {
        "inner_channel": "channels",
        "channel_mults": "multipliers",
        "res_blocks": "blocks_per_level",
        "norm_groups": "norm_groups",
        "total_step": "timesteps",
        "dynamic_group": "time_groups",
        "dropout": "dropout",
    }
    ignored = {"type", "in_channel", "out_channel", "image_size", "attn_res", "fp_res"}
    unknown = sorted(set(options) - set(names) - ignored)
    if unknown:
        raise ConfigError(f"{where}: network_g.{unknown[0]}: unknown option")
    missing = [key for key in [*names, "image_size"] if key not in options and key != "dropout"]
    if missing:
        raise ConfigError(f"{where}: network_g.{missing[0]}: missing")
    if options.get("in_channel", 6) != 6 or options.get("out_channel", 3) != 3:
        raise ConfigError(f"{where}: network_g.in_channel/out_channel: must be 6 and 3")
    values = {ours: options[theirs] for theirs, ours in names.items() if theirs in options}
    config = parse_config(BiDiffSRConfig, values | {"full_precision_up_levels": 0}, where)
    sizes = [options["image_size"] // 2**level for level in range(len(config.multipliers))]
    full_precision = [size in (options.get("fp_res") or ()) for size in sizes]
    count = sum(full_precision)
    if not all(full_precision[:count]):
        raise ConfigError(
            f"{where}: network_g.fp_res: must name the shallowest levels {sizes[:count]}, "
            f"got {options.get('fp_res')}"
        )
    attention = [
        level for level, size in enumerate(sizes) if size in (options.get("attn_res") or ())
    ]
    values |= {"full_precision_up_levels": count, "attention_levels": attention}
    return parse_config(BiDiffSRConfig, values, where)


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
        if not isinstance(loaded, dict) or "network_g" not in loaded:
            raise ConfigError(f"{option_file}: has no network_g; expected a published option file")
        document = loaded
    network = from_reference(path, document.get("network_g"))
    betas = document.get("beta_schedule") or {}
    if betas.get("schedule", "linear") != "linear":
        raise ConfigError(
            f"{option_file}: beta_schedule.schedule: {betas['schedule']!r}, expected 'linear'"
        )
    schedule = {
        "timesteps": betas.get("n_timestep", network.config.timesteps),
        "beta_start": betas.get("linear_start", 1e-6),
        "beta_end": betas.get("linear_end", 1e-2),
    }
    where = str(option_file or path)
    prediction = {"epsilon": "epsilon", "v_prediction": "v", "sample": "sample"}
    named = betas.get("prediction_type", "epsilon")
    if named not in prediction:
        raise ConfigError(
            f"{where}: beta_schedule.prediction_type: {named!r}, expected one of "
            f"{', '.join(prediction)}"
        )
    diffusion = DiffusionConfig(
        schedule=parse_config(LinearSchedule, schedule, f"{where}: beta_schedule"),
        prediction=prediction[named],  # type: ignore[arg-type]
    )
    steps = {"steps": betas.get("num_inference_steps", 50)}
    values = {
        "network": network.config,
        "diffusion": diffusion,
        "sampling": parse_config(SamplingConfig, steps, f"{where}: beta_schedule"),
        "scale": document.get("scale", 4),
        "provenance": {"source": path.name},
    }
    return network, parse_config(ModelConfig, values, where)


def _rename_reference(
    state: Mapping[str, Tensor], config: BiDiffSRConfig, path: Path
) -> dict[str, Tensor]:
    """Give a reference state dict our names; the K parameter sets of a layer are stacked."""
    with torch.device("meta"):
        network = BiDiffSRUNet(config)
    remaining = dict(state)
    renamed: dict[str, Tensor] = {}
    for ours, theirs in _reference_names(network):
        values = []
        for name in theirs:
            if name not in remaining:
                raise CheckpointError(f"{path}: {name}: missing")
            values.append(remaining.pop(name))
        shape = tuple(network.get_parameter(ours).shape)
        if len(theirs) == 1 and values[0].shape == shape:
            renamed[ours] = values[0]
            continue
        for name, value in zip(theirs, values, strict=True):
            if value.numel() != shape[-1] or len(theirs) != shape[0]:
                raise CheckpointError(
                    f"{path}: {name}: has {form(value)}, expected float of {list(shape[1:])}"
                )
        renamed[ours] = torch.stack([value.reshape(-1) for value in values])
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
