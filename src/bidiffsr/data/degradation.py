"""What happens to low-resolution pictures outside of benchmarks: blur, resizing, noise, JPEG."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bidiffsr.config import DegradationConfig
from bidiffsr.images.codec import through_jpeg
from bidiffsr.images.image import from_float, to_float
from bidiffsr.images.resize import imresize

REACH = 8
"""Pixels around a window that it depends on: the blur's tails, and the side of a JPEG block."""

_BEST_QUALITY = 95
_BLOCK = 8  # pixels, the side of a JPEG block


def degrade(
    low: NDArray[np.uint8], config: DegradationConfig, random: np.random.Generator
) -> NDArray[np.uint8]:
    """A low-resolution picture as a camera or a web page might have given it.

    Blur, sharpening, resizing, noise and JPEG come in this order, each or not as chance has it,
    each of random strength, in as many rounds as `config` says. Noise is drawn per channel, its
    variance half constant and half in proportion to the light, as that of a sensor. JPEG halves
    the colours' resolution below quality 90, as libjpeg's users do; its blocks begin elsewhere in
    later rounds, as if the picture had been cropped before.

    Args:
        low: (H, W, 3) uint8.
        config: how often, and how much at most.
        random: where chance comes from; always so many draws, whatever they decide.

    Returns:
        (H, W, 3) uint8.
    """
    rounds = [_Round.draw(config, random) for _ in range(config.rounds)]
    if rounds[0].more.random() < config.clean:
        return low
    degraded = low
    for number, each in enumerate(rounds):
        degraded = each.apply(degraded, low.shape[:2], config, anew=number == 0)
    if degraded.shape != low.shape:
        degraded = from_float(imresize(to_float(degraded), low.shape[:2]))
    return degraded


@dataclass(frozen=True)
class _Round:
    """What chance decided for one round."""

    happens: NDArray[np.bool_]
    """Blur, noise, JPEG."""
    strengths: NDArray[np.float64]
    """Of these, [0, 1)."""
    noise: np.random.Generator
    more: np.random.Generator
    """For everything else."""

    @classmethod
    def draw(cls, config: DegradationConfig, random: np.random.Generator) -> _Round:
        happens = random.random(3) < config.probability
        strengths = random.random(3)
        key = int(random.integers(2**63))
        return cls(happens, strengths, np.random.default_rng(key), np.random.default_rng([key, 1]))

    def apply(
        self,
        pixels: NDArray[np.uint8],
        size: tuple[int, int],
        config: DegradationConfig,
        *,
        anew: bool,
    ) -> NDArray[np.uint8]:
        """One round of ``degrade``; ``size`` is that of the picture before all of them."""
        blur, noise, quality = self.strengths * (config.blur, config.noise, 1)
        sharpens, shrinks = self.more.random(2) < config.probability
        amount, factor = self.more.random(2) * (config.sharpen, 1 - config.resize)
        top, left = (0, 0) if anew else map(int, self.more.integers(_BLOCK, size=2))
        image = to_float(pixels)
        if self.happens[0]:
            image = gaussian_blur(image, float(blur))
        if sharpens and amount:
            image = image + np.float32(amount) * (image - gaussian_blur(image, 1.0))
        if shrinks and factor:
            height, width = (max(1, round(side * (1 - factor))) for side in size)
            image = imresize(image, (height, width))
        if self.happens[1]:
            deviation = noise / 255 * np.sqrt(0.5 + image.clip(0, 1))
            drawn = self.noise.standard_normal(image.shape, np.float32)
            image = image + (deviation * drawn).astype(np.float32)
        degraded = from_float(image)
        if self.happens[2] and config.jpeg is not None:
            span = _BEST_QUALITY - config.jpeg
            shifted = np.pad(degraded, ((top, 0), (left, 0), (0, 0)), mode="edge")
            shifted = through_jpeg(shifted, config.jpeg + round(float(quality) * span))
            degraded = shifted[top:, left:]
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
