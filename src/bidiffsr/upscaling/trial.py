"""How long upscaling takes on this computer, as a trial shows."""

from __future__ import annotations

import time
from dataclasses import asdict, replace
from typing import Any

import numpy as np

from bidiffsr.upscaling.options import UpscaleOptions
from bidiffsr.upscaling.upscaler import Upscaler

# Pixels of the pictures' sides: to begin with, a small one, which finds caches and threads cold.
_SIDES = 32, 128


def seconds_per_pixel(upscaler: Upscaler, options: UpscaleOptions) -> float:
    """Seconds that one sample of one pixel of a result takes.

    Args:
        upscaler: the model.
        options: of the upscaling; the result's size, which hardly matters for one of its pixels, is
            the model's own.

    Raises:
        BidiffsrError: the model cannot do what is asked for.
    """
    trial = replace(options, samples=1, scale=None, size=None, width=None, height=None)
    keywords = asdict(trial)
    seconds = pixels = 0
    for side in _SIDES:
        noise = np.random.default_rng(0).integers(0, 256, (side, side, 3), np.uint8)
        began = time.perf_counter()
        result: Any = upscaler(noise, **keywords)
        seconds, pixels = time.perf_counter() - began, result.shape[0] * result.shape[1]
    return seconds / pixels
