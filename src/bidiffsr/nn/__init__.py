"""The networks: BI-DiffSR's U-Net with its ablations, and SR3.

Their layout on paper takes no PyTorch (`bidiffsr.nn.layout`); the names here do, and are loaded
when they are first used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bidiffsr.nn.build import build_network
    from bidiffsr.nn.sr3 import SR3UNet
    from bidiffsr.nn.unet import BiDiffSRUNet

__all__ = ["BiDiffSRUNet", "SR3UNet", "build_network"]

_MODULE_OF = {
    "BiDiffSRUNet": "bidiffsr.nn.unet",
    "SR3UNet": "bidiffsr.nn.sr3",
    "build_network": "bidiffsr.nn.build",
}


def __getattr__(name: str) -> Any:
    """Load a network (PEP 562)."""
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_MODULE_OF[name]), name)
