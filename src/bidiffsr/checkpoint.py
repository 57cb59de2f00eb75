"""Weight files in and out: the published checkpoints, and our own model files for training.

Nothing is unpickled beyond tensors, and no tensor is allocated before the file's shapes are known
to fit the configuration.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from bidiffsr.binary import BinaryConv2d, ConvBlock
from bidiffsr.config import (
    BiDiffSRConfig,
    DiffusionConfig,
    LinearSchedule,
    ModelConfig,
    NetworkConfig,
    SamplingConfig,
    load_yaml,
    parse_config,
)
from bidiffsr.errors import CheckpointError, ConfigError
from bidiffsr.files import write_atomically
from bidiffsr.nn import BiDiffSRUNet, build_network
from bidiffsr.nn.blocks import ConsistentDown, ConsistentUp, ResidualBlock, ShuffleFusion

METADATA_KEY = "bidiffsr"
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
    state, metadata = _read_tensors(path)
    if options is None:
        if _REFERENCE_CONFIG_KEY not in metadata:
            raise ConfigError(
                f"{path}: does not say how its network is built; pass options, the "
                "network_g mapping of its option file"
            )
        options = _parse_json(metadata[_REFERENCE_CONFIG_KEY], f"{path}: metadata key 'config'")
    config = reference_network_config(options, where=str(path))
    return _load_into(config, _rename_reference(state, config, path), path)


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
            that inference needs; otherwise as the float32 that training goes on from.

    Raises:
        OutputError: the place cannot be written to.
    """
    state = {name: value.detach().contiguous() for name, value in network.state_dict().items()}
    if packed:
        state = _pack(network, state)
    header = {METADATA_KEY: config.model_dump_json()}
    write_atomically(path, lambda temporary: save_file(state, temporary, metadata=header))


def load_model(path: Path) -> tuple[nn.Module, ModelConfig]:
    """Read a model file written by ``save_model``; the network is in evaluation mode.

    Raises:
        CheckpointError: the file cannot be read, or names the first key that does not fit.
    """
    state, metadata = _read_tensors(path)
    if METADATA_KEY not in metadata:
        raise CheckpointError(
            f"{path}: is not a bidiffsr model; a published checkpoint needs `bidiffsr convert`"
        )
    values = _parse_json(metadata[METADATA_KEY], f"{path}: header")
    try:
        config = parse_config(ModelConfig, values, f"{path}: header")
    except ConfigError as error:
        raise CheckpointError(str(error)) from None
    return _load_into(config.network, state, path), config


def _pack(network: nn.Module, state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Replace each one-bit weight by its ``.signs`` (bits), ``.scale`` and any ``.zeros``."""
    packed = dict(state)
    for name, module in network.named_modules():
        if not isinstance(module, BinaryConv2d) or module.binarize_weight is None:
            continue
        weight = packed.pop(f"{name}.weight")
        rows = weight.flatten(1)
        bits = np.packbits(rows.numpy() >= 0, axis=1)
        packed[f"{name}.weight.signs"] = torch.from_numpy(bits)
        packed[f"{name}.weight.scale"] = rows.abs().mean(dim=1)
        zeros = (rows == 0).flatten().nonzero().flatten()
        if len(zeros):
            packed[f"{name}.weight.zeros"] = zeros.int()
    return packed


def _unpack(network: nn.Module, state: dict[str, Tensor], path: Path) -> dict[str, Tensor]:
    """Undo ``_pack`` up to magnitudes: each weight becomes plus or minus its channel's mean."""
    unpacked = dict(state)
    for name, parameter in network.named_parameters():
        if f"{name}.signs" not in state:
            continue
        count = parameter[0].numel()
        bits = unpacked.pop(f"{name}.signs")
        if bits.dtype != torch.uint8 or bits.shape != (len(parameter), -(-count // 8)):
            expected = f"uint8 of {[len(parameter), -(-count // 8)]}"
            raise CheckpointError(f"{path}: {name}.signs: has {_form(bits)}, expected {expected}")
        scale = unpacked.pop(f"{name}.scale", torch.empty(0))
        if scale.dtype != torch.float32 or scale.shape != (len(parameter),):
            expected = f"float32 of {[len(parameter)]}"
            raise CheckpointError(f"{path}: {name}.scale: has {_form(scale)}, expected {expected}")
        zeros = unpacked.pop(f"{name}.zeros", torch.empty(0, dtype=torch.int32))
        inside = (zeros >= 0) & (zeros < parameter.numel())
        if zeros.dtype != torch.int32 or zeros.dim() != 1 or not inside.all():
            raise CheckpointError(
                f"{path}: {name}.zeros: expected int32 indices below {parameter.numel()}"
            )
        rows = torch.from_numpy(np.unpackbits(bits.numpy(), axis=1, count=count)).float() * 2 - 1
        rows.view(-1)[zeros.long()] = 0
        magnitude = scale / rows.abs().mean(dim=1).clamp(min=1 / count)
        unpacked[name] = (rows * magnitude[:, None]).reshape(parameter.shape)
    return unpacked


def _load_into(config: NetworkConfig, state: Mapping[str, Tensor], path: Path) -> Any:
    """Build the network of ``config`` around ``state``, once every key is known to fit."""
    with torch.device("meta"):
        network = build_network(config)
    state = _unpack(network, dict(state), path)
    expected = network.state_dict()
    for name, parameter in expected.items():
        if name not in state:
            raise CheckpointError(f"{path}: {name}: missing")
        value = state[name]
        if value.shape != parameter.shape or not value.is_floating_point():
            raise CheckpointError(
                f"{path}: {name}: has {_form(value)}, expected float of {list(parameter.shape)}"
            )
        if not value.isfinite().all():
            raise CheckpointError(f"{path}: {name}: holds NaN or infinity")
    unexpected = sorted(set(state) - set(expected))
    if unexpected:
        raise CheckpointError(f"{path}: {unexpected[0]}: is no part of this network")
    network.load_state_dict(
        {name: value.float().clone() for name, value in state.items()}, assign=True
    )
    return network.requires_grad_(True).eval()


def _form(value: Tensor) -> str:
    return f"{str(value.dtype).removeprefix('torch.')} of {list(value.shape)}"


def _read_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """All tensors and the metadata of a ``.safetensors`` or ``.pth`` file."""
    if not path.is_file():
        raise CheckpointError(f"{path}: no such file; check the path")
    if path.suffix == ".safetensors":
        try:
            with safe_open(path, framework="pt") as file:
                return {name: file.get_tensor(name) for name in file.keys()}, file.metadata() or {}  # noqa: SIM118
        except (SafetensorError, OSError, ValueError) as error:
            raise CheckpointError(f"{path}: is not a sound safetensors file: {error}") from None
    try:
        # memory-mapped and weights-only: only tensors and plain containers are ever built
        loaded = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises many kinds for damaged and hostile pickles
        reason = (str(error) or type(error).__name__).strip().splitlines()[0]
        raise CheckpointError(f"{path}: is not a sound PyTorch checkpoint: {reason}") from None
    return _find_state(loaded, path), {}


def _find_state(loaded: Any, path: Path) -> dict[str, Tensor]:
    for key in ("params_ema", "params"):
        if isinstance(loaded, dict) and isinstance(loaded.get(key), dict):
            loaded = loaded[key]
            break
    if not isinstance(loaded, dict) or not loaded:
        raise CheckpointError(f"{path}: holds no state dict (params_ema, params, or names itself)")
    state: dict[str, Tensor] = {}
    for name, value in loaded.items():
        if not isinstance(name, str) or not isinstance(value, Tensor):
            raise CheckpointError(f"{path}: {name!s:.80}: is no named tensor")
        state[name.removeprefix("module.")] = value
    return state


def _parse_json(text: str, where: str) -> Any:
    try:
        return json.loads(text)
    except (json.JSONDecodeError, RecursionError) as error:
        raise CheckpointError(f"{where}: is not JSON: {error}") from None


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
                    f"{path}: {name}: has {_form(value)}, expected float of {list(shape[1:])}"
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
            names = [".".join(filter(None, pair)) for pair in ((ours, part), (theirs, their_part))]
            if isinstance(leaf, ConvBlock):
                yield from _reference_conv_names(*names, leaf, groups)
            else:
                for parameter, _ in leaf.named_parameters():
                    yield f"{names[0]}.{parameter}", [f"{names[1]}.{parameter}"]


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
