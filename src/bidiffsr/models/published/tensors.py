"""Named tensors out of files nobody vouches for, and into networks they have to fit."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from bidiffsr.config import NetworkConfig
from bidiffsr.errors import CheckpointError
from bidiffsr.nn import build_network

_DTYPES = {
    *(torch.float16, torch.bfloat16, torch.float32, torch.float64),
    *(torch.bool, torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64),
}


def network_around(config: NetworkConfig, state: Mapping[str, Tensor]) -> Any:
    """The network of ``config`` with the values of ``state``, copied, float32; evaluation mode.

    ``state`` is known to fit.
    """
    with torch.device("meta"):
        network = build_network(config)
    network.load_state_dict(
        {name: value.float().clone() for name, value in state.items()}, assign=True
    )
    return network.requires_grad_(True).eval()


def check_fits(value: Tensor, shape: tuple[int, ...], where: str) -> None:
    """Make sure that a tensor can be a parameter of ``shape``.

    Raises:
        CheckpointError: it has another shape, is not of floats, or holds NaN or infinity.
    """
    if value.shape != shape or not value.is_floating_point():
        found = f"{str(value.dtype).removeprefix('torch.')} of {list(value.shape)}"
        raise CheckpointError(f"{where}: has {found}, expected float of {list(shape)}")
    if not value.isfinite().all():
        raise CheckpointError(f"{where}: holds NaN or infinity")


def read_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """All tensors and the metadata of a ``.safetensors`` or ``.pth`` file."""
    if not path.is_file():
        raise CheckpointError(f"{path}: no such file; check the path")
    if path.suffix == ".safetensors":
        try:
            with safe_open(path, framework="pt") as file:
                state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
                metadata = file.metadata() or {}
        except (SafetensorError, OSError, ValueError) as error:
            raise CheckpointError(f"{path}: is not a sound safetensors file: {error}") from None
        _check_plain(state, path)
        return state, metadata
    try:
        # Weights-only: tensors and plain containers are built, nothing else is run.
        loaded = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises many kinds for damaged and hostile pickles
        # Not torch's own words: they advise to load it unsafely.
        raise CheckpointError(
            f"{path}: is not a sound PyTorch checkpoint of plain tensors ({type(error).__name__}); "
            "fetch or export it again"
        ) from None
    state = _find_state(loaded, path)
    _check_plain(state, path)
    return state, {}


def _check_plain(state: Mapping[str, Tensor], path: Path) -> None:
    """Refuse tensors that have no values, or none that arithmetic here knows."""
    for name, value in state.items():
        plain = value.layout == torch.strided and value.device.type == "cpu"
        if not plain or value.dtype not in _DTYPES:
            kind = f"{value.layout} {value.dtype} on {value.device}".replace("torch.", "")
            raise CheckpointError(f"{path}: {name}: is {kind}, expected plain numbers")


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
