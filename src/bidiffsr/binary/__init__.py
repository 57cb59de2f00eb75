"""Binarization: signs and their gradients, binary convolutions, and the methods made of them.

What takes PyTorch is loaded when it is first used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from bidiffsr.binary.methods import METHODS, BiDiffSR, ConvMethod, FullPrecision, method_for

if TYPE_CHECKING:
    from bidiffsr.binary.fused import compiled_kernels
    from bidiffsr.binary.layers import (
        BinaryConv2d,
        ConvBlock,
        TimestepRPReLU,
        TimestepShift,
        fuse,
    )
    from bidiffsr.binary.quantizers import ActivationSign, ScaledWeightSign, set_progress

__all__ = [
    "METHODS",
    "ActivationSign",
    "BiDiffSR",
    "BinaryConv2d",
    "ConvBlock",
    "ConvMethod",
    "FullPrecision",
    "ScaledWeightSign",
    "TimestepRPReLU",
    "TimestepShift",
    "compiled_kernels",
    "fuse",
    "method_for",
    "set_progress",
]

_MODULE_OF = {
    "ActivationSign": "bidiffsr.binary.quantizers",
    "BinaryConv2d": "bidiffsr.binary.layers",
    "ConvBlock": "bidiffsr.binary.layers",
    "ScaledWeightSign": "bidiffsr.binary.quantizers",
    "TimestepRPReLU": "bidiffsr.binary.layers",
    "TimestepShift": "bidiffsr.binary.layers",
    "compiled_kernels": "bidiffsr.binary.fused",
    "fuse": "bidiffsr.binary.layers",
    "set_progress": "bidiffsr.binary.quantizers",
}


def __getattr__(name: str) -> Any:
    """Load a name that takes PyTorch (PEP 562)."""
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_MODULE_OF[name]), name)
