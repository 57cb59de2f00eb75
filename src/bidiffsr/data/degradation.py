"""What happens to low-resolution pictures outside of benchmarks: blur, sensor noise, JPEG."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from bidiffsr.config import DegradationConfig
from bidiffsr.images.codec import through_jpeg
from bidiffsr.images.image import from_float, to_float

REACH = 8
"""Pixels around a window that it depends on: the blur's tails, and the side of a JPEG block."""

_BEST_QUALITY = 95


def degrade(
    low: NDArray[np.uint8], config: DegradationConfig, random: np.random.Generator
) -> NDArray[np.uint8]:
    """A low-resolution picture as a camera or a web page might have given it.

    Blur, noise and JPEG come in this order, each or not as chance has it, each of random strength
    (`DegradationConfig`). Noise is drawn per channel, its variance half constant and half in
    proportion to the light, as that of a sensor. JPEG halves the colours' resolution below quality
    90, as libjpeg's users do.

    Args:
        low: (H, W, 3) uint8.
        config: how often, and how much at most.
        random: where chance comes from; always so many draws, whatever they decide.

    Returns:
        (H, W, 3) uint8.
    """
    happens = random.random(3) < config.probability
    blur, noise, quality = random.random(3) * (config.blur, config.noise, 1)
    key = random.integers(2**63)
    image = to_float(low)
    if happens[0]:
        image = gaussian_blur(image, float(blur))
    if happens[1]:
        deviation = noise / 255 * np.sqrt(0.5 + image)
        drawn = np.random.default_rng(key).standard_normal(image.shape, np.float32)
        image = image + (deviation * drawn).astype(np.float32)
    degraded = from_float(image)
    if happens[2] and config.jpeg is not None:
        span = _BEST_QUALITY - config.jpeg
        degraded = through_jpeg(degraded, config.jpeg + round(float(quality) * span))
    return degraded


def gaussian_blur(image: NDArray[np.float32], deviation: float) -> NDArray[np.float32]:
    """``image`` (H, W, C) under a Gaussian of that many pixels; edge pixels are repeated."""
    radius = math.ceil(3 * deviation)
    offsets = np.arange(-radius, radius + 1)
    kernel = np.exp(-0.5 * (offsets / max(deviation, 1e-6)) ** 2)
    kernel = (kernel / kernel.sum()).astype(np.float32)
    for axis in (0, 1):
        width = [(0, 0)] * image.ndim
        width[axis] = (radius, radius)
        padded = np.pad(image, width, mode="edge")
        length = image.shape[axis]
        blurred: NDArray[np.float32] = np.zeros_like(image)
        for tap, weight in enumerate(kernel):
            blurred += weight * np.take(padded, range(tap, tap + length), axis)
        image = blurred
    return image
