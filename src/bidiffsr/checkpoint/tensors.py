"""Named tensors out of files nobody vouches for, and into networks they have to fit."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from bidiffsr.checkpoint.packing import form, unpack
from bidiffsr.config import NetworkConfig
from bidiffsr.errors import CheckpointError
from bidiffsr.nn import build_network


def load_into(config: NetworkConfig, state: Mapping[str, Tensor], path: Path) -> Any:
    """Build the network of ``config`` around ``state``, once every key is known to fit."""
    with torch.device("meta"):
        network = build_network(config)
    state = unpack(network, dict(state), path)
    expected = network.state_dict()
    for name, parameter in expected.items():
        if name not in state:
            raise CheckpointError(f"{path}: {name}: missing")
        value = state[name]
        if value.shape != parameter.shape or not value.is_floating_point():
            raise CheckpointError(
                f"{path}: {name}: has {form(value)}, expected float of {list(parameter.shape)}"
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


def read_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
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


def parse_json(text: str, where: str) -> Any:
    """Plain data out of JSON text; CheckpointError naming ``where`` if it is none."""
    try:
        return json.loads(text)
    except (json.JSONDecodeError, RecursionError) as error:
        raise CheckpointError(f"{where}: is not JSON: {error}") from None
