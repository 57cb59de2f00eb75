"""What several samples of one picture say together: their mean, and how far they are apart."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from bidiffsr.errors import ConfigError
from bidiffsr.images.image import Image, from_float, to_float
from bidiffsr.images.xmp import Record
from bidiffsr.system.buffers import new_buffer, release, strips
from bidiffsr.upscaling.record import recorded

KEPT_BYTES = 2 * 3 * 4 + 4 * 2
"""Memory for each of a result's pixels: mean and squares, and the last sample at its largest."""

# Of the colours, see `colour_map`: Green's own choice.
_START, _ROTATIONS, _HUE = 0.5, -1.5, 1.0


class Draws:
    """The mean and the standard deviation of samples that are added one after the other.

    Source: Welford, "Note on a method for calculating corrected sums of squares and products",
    Technometrics 4, 1962.

    Args:
        folder: where what is kept of them lives; see ``new_buffer``.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self._folder = folder
        self._last: Image | None = None
        self._count = 0
        self._records: list[Record] = []
        self._mean: NDArray[np.float32] = np.empty(0, np.float32)
        self._squares = self._mean
        """Summed squares of the distances from the mean."""

    def add(self, draw: Image) -> None:
        """Take one more sample into account; all are of one size and kind."""
        if self._last is None:
            self._mean = new_buffer(draw.pixels.shape, np.float32, self._folder)
            self._squares = new_buffer(draw.pixels.shape, np.float32, self._folder)
        self._last = draw
        self._count += 1
        shared = {key: value for key, value in draw.metadata.record.items() if key != "sample"}
        if shared not in self._records:
            self._records.append(shared)
        for rows in strips(draw.height, draw.width):
            values = to_float(draw.pixels[rows])
            before = values - self._mean[rows]
            self._mean[rows] += before / np.float32(self._count)
            self._squares[rows] += before * (values - self._mean[rows])
            release(self._mean, self._squares)

    def mean(self) -> Image:
        """The mean sample, with all that belongs to a sample.

        Raises:
            ConfigError: there are fewer than two.
        """
        last = self._checked()
        pixels = np.empty_like(last.pixels)
        for rows in strips(last.height, last.width):
            pixels[rows] = from_float(self._mean[rows], pixels.dtype)
        first, *others = self._records  # others where tiles became smaller in between
        record = {} if others or not first else {**first, "mean_of": self._count}
        return recorded(replace(last, pixels=pixels), record)

    def deviation(self) -> NDArray[np.float32]:
        """The standard deviation of each pixel: (H, W) float32, 1 being the range of the samples.

        Of the three channels it is the root mean square; of the samples the unbiased estimate, that
        is, with one less than their number.

        Raises:
            ConfigError: there are fewer than two.
        """
        last = self._checked()
        found = np.empty((last.height, last.width), np.float32)
        for rows in strips(last.height, last.width):
            variance = self._squares[rows].mean(axis=2) / np.float32(self._count - 1)
            found[rows] = np.sqrt(variance)
        return found

    def _checked(self) -> Image:
        if self._last is None or self._count < 2:
            raise ConfigError(f"samples: got {self._count}, expected 2 or more to compare")
        return self._last


def deviation_image(deviation: NDArray[np.float32]) -> Image:
    """A standard deviation as data: grey of 16 bits, 65535 being the whole range of the samples."""
    grey = from_float(deviation, np.uint16)
    return Image(np.repeat(grey[..., None], 3, axis=2), grey=True)


def brightest(deviation: NDArray[np.float32]) -> float:
    """What to show as white: only one pixel in 200 lies above it, or else the largest value."""
    return float(np.quantile(deviation, 0.995)) or float(deviation.max())


def uncertainty_image(deviation: NDArray[np.float32], white: float) -> Image:
    """A standard deviation to look at: black is 0, ``white`` and all above it is white."""
    colours = from_float(colour_map(256), np.uint8)
    level = np.minimum(deviation / np.float32(white or 1), 1)
    return Image(colours[np.rint(level * np.float32(255)).astype(np.uint8)])


def colour_map(count: int) -> NDArray[np.float64]:
    """Colours from black to white whose perceived brightness rises evenly: (count, 3) in [0, 1].

    Source: Green, "A colour scheme for the display of astronomical intensity images", Bulletin of
    the Astronomical Society of India 39, 2011, equations 1 and 2 ("cubehelix").
    """
    level = np.linspace(0, 1, count)
    angle = 2 * math.pi * (_START / 3 + 1 + _ROTATIONS * level)
    amplitude = _HUE * level * (1 - level) / 2
    turns = np.stack([np.cos(angle), np.sin(angle)])
    channels = np.array([[-0.14861, 1.78277], [-0.29227, -0.90649], [1.97294, 0.0]])
    return np.clip(level[:, None] + amplitude[:, None] * (channels @ turns).T, 0, 1)
