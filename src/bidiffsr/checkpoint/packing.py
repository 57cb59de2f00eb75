"""Binarized weights as bits (docs/format.md)."""

from __future__ import annotations

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


def unpack(network: nn.Module, state: dict[str, Tensor], path: Path) -> dict[str, Tensor]:
    """Undo ``_pack`` up to magnitudes: each weight becomes plus or minus its channel's mean."""
    unpacked = dict(state)
    for name, parameter in network.named_parameters():
        if f"{name}.signs" not in state:
            continue
        count = parameter[0].numel()
        bits = unpacked.pop(f"{name}.signs")
        if bits.dtype != torch.uint8 or bits.shape != (len(parameter), -(-count // 8)):
            expected = f"uint8 of {[len(parameter), -(-count // 8)]}"
            raise CheckpointError(f"{path}: {name}.signs: has {form(bits)}, expected {expected}")
        scale = unpacked.pop(f"{name}.scale", torch.empty(0))
        if scale.dtype != torch.float32 or scale.shape != (len(parameter),):
            expected = f"float32 of {[len(parameter)]}"
            raise CheckpointError(f"{path}: {name}.scale: has {form(scale)}, expected {expected}")
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
