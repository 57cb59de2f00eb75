"""Binarized diffusion super-resolution: train it, score it, run it.

    from bidiffsr import Upscaler

    upscaler = Upscaler.from_pretrained()
    larger = upscaler("photo.jpg")

The names below are loaded when they are first used: importing the package does no work.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bidiffsr.backends.engine import Engine
    from bidiffsr.errors import BidiffsrError
    from bidiffsr.evaluation import niqe, psnr, ssim
    from bidiffsr.images.codec import read_image, write_image
    from bidiffsr.images.image import Image
    from bidiffsr.images.resize import cubic_upscale, imresize
    from bidiffsr.models.catalog import list_models
    from bidiffsr.models.networks import from_reference, load_model
    from bidiffsr.upscaling.upscaler import Upscaler

    __version__: str

__all__ = [
    "BidiffsrError",
    "Engine",
    "Image",
    "Upscaler",
    "__version__",
    "cubic_upscale",
    "from_reference",
    "imresize",
    "list_models",
    "load_model",
    "niqe",
    "psnr",
    "read_image",
    "ssim",
    "write_image",
]

_MODULE_OF = {
    "BidiffsrError": "bidiffsr.errors",
    "Engine": "bidiffsr.backends.engine",
    "Image": "bidiffsr.images.image",
    "Upscaler": "bidiffsr.upscaling.upscaler",
    "cubic_upscale": "bidiffsr.images.resize",
    "from_reference": "bidiffsr.models.networks",
    "imresize": "bidiffsr.images.resize",
    "list_models": "bidiffsr.models.catalog",
    "load_model": "bidiffsr.models.networks",
    "niqe": "bidiffsr.evaluation",
    "psnr": "bidiffsr.evaluation",
    "read_image": "bidiffsr.images.codec",
    "ssim": "bidiffsr.evaluation",
    "write_image": "bidiffsr.images.codec",
}


def __getattr__(name: str) -> Any:
    """Load a public name (PEP 562)."""
    if name == "__version__":
        value = importlib.import_module("bidiffsr.system.version").installed_version()
    elif name in _MODULE_OF:
        value = getattr(importlib.import_module(_MODULE_OF[name]), name)
    else:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
