"""Binarized weights as bits (docs/format.md)."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from bidiffsr.binary import BinaryConv2d
from bidiffsr.errors import CheckpointError


def form(value: Tensor) -> str:
    """Dtype and shape, for a message."""
    return f"{str(value.dtype).removeprefix('torch.')} of {list(value.shape)}"


def pack(network: nn.Module, state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Replace each one-bit weight by its ``.signs`` (bits), ``.scale`` and any ``.zeros``."""
    packed = dict(state)
    for name, _ in _one_bit_weights(network):
        rows = packed.pop(name).flatten(1).cpu()
        packed[f"{name}.signs"] = torch.from_numpy(np.packbits(rows.numpy() >= 0, axis=1))
        packed[f"{name}.scale"] = rows.abs().mean(dim=1)
        zeros = (rows == 0).flatten().nonzero().flatten()
        if len(zeros):
            packed[f"{name}.zeros"] = zeros.int()
    return packed


def unpack(network: nn.Module, state: dict[str, Tensor], path: Path) -> dict[str, Tensor]:
    """Undo ``pack`` up to magnitudes: each weight becomes plus or minus its channel's mean.

    Raises:
        CheckpointError: a packed tensor is missing or not as docs/format.md says.
    """
    unpacked = dict(state)
    for name, parameter in _one_bit_weights(network):
        if f"{name}.signs" not in state:
            continue
        if name in state:
            raise CheckpointError(f"{path}: {name}: is there twice, packed and as floats")
        rows, columns = parameter.flatten(1).shape
        signs = _take(unpacked, f"{name}.signs", torch.uint8, (rows, -(-columns // 8)), path)
        scale = _take(unpacked, f"{name}.scale", torch.float32, (rows,), path)
        if not (scale.isfinite() & (scale >= 0)).all():
            raise CheckpointError(f"{path}: {name}.scale: holds what is no magnitude")
        zeros = unpacked.pop(f"{name}.zeros", torch.empty(0, dtype=torch.int32))
        sound = zeros.dtype == torch.int32 and zeros.dim() == 1
        if not sound or not ((zeros >= 0) & (zeros < rows * columns)).all():
            raise CheckpointError(
                f"{path}: {name}.zeros: expected int32 indices below {rows * columns}"
            )
        bits = np.unpackbits(signs.numpy(), axis=1)
        if bits[:, columns:].any():
            raise CheckpointError(f"{path}: {name}.signs: has padding bits that are not 0")
        weight = torch.from_numpy(bits[:, :columns]).float() * 2 - 1
        weight.view(-1)[zeros.long()] = 0
        magnitude = scale / weight.abs().mean(dim=1).clamp(min=1 / columns)
        unpacked[name] = (weight * magnitude[:, None]).reshape(parameter.shape)
    return unpacked


def _one_bit_weights(network: nn.Module) -> Iterator[tuple[str, Tensor]]:
    for name, module in network.named_modules():
        if isinstance(module, BinaryConv2d) and module.weight_bits == 1:
            yield f"{name}.weight", module.weight


def _take(
    state: dict[str, Tensor], name: str, dtype: torch.dtype, shape: tuple[int, ...], path: Path
) -> Tensor:
    """Remove and return a tensor that has to be there in this very form."""
    if name not in state:
        raise CheckpointError(f"{path}: {name}: missing")
    value = state.pop(name)
    if value.dtype != dtype or value.shape != shape:
        expected = f"{str(dtype).removeprefix('torch.')} of {list(shape)}"
        raise CheckpointError(f"{path}: {name}: has {form(value)}, expected {expected}")
    return value
